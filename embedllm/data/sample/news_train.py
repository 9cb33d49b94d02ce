"""News-like slots and frames of the training triplets."""

from __future__ import annotations

from embedllm.data.sample.grammar import Frame, slot

SLOTS = {
    "num": slot("two|a couple of; twelve|a dozen; six|half a dozen; three; seven; twenty"),
    "time": slot(
        "this week|in the last few days; last month|a month ago;"
        "on Monday|as the week began; yesterday|a day ago",
        is_detail=True,
    ),
    "authority": slot(
        "the government|the cabinet; the finance ministry|the treasury;"
        "the city council|the town hall; the regional leadership|the provincial leaders"
    ),
    "charge": slot(
        "fuel taxes|levies on petrol; pensions|retirement payments;"
        "bus fares|bus ticket prices; parking fees|the costs of parking;"
        "judges' wages|the salaries of judges"
    ),
    "points": slot(
        "half a point|50 basis points; a quarter point|25 basis points;"
        "a full point|100 basis points; three quarters of a point|75 basis points"
    ),
    "nth": slot(
        "for the second time running|for the second time in a row;"
        "for the third time running|for the third time in a row;"
        "for the fourth time running|for the fourth time in a row"
    ),
    "company": slot(
        "the airline|the air carrier; the carmaker|the automobile manufacturer;"
        "the phone maker|the handset maker; the drug company|the pharmaceutical firm;"
        "the retailer|the store chain",
        broader="a business",
    ),
    "money": slot(
        "ten million dollars|$10 million; half a billion dollars|$500 million;"
        "one billion dollars|$1,000 million; a quarter of a million dollars|$250,000"
    ),
    "count": slot(
        "five hundred|500; two thousand|2,000; twelve hundred|1,200; ten thousand|10,000"
    ),
    "disaster": slot(
        "an earthquake|a powerful quake; a storm|a cyclone; a fire|a blaze;"
        "an explosion|a blast; a landslide|a mudslide"
    ),
    "region": slot(
        "in the north of the country|in the northern provinces; on the coast|near the shore;"
        "in the hills|in the highlands; in the capital|in the main city",
        is_detail=True,
    ),
    "official": slot(
        "the mayor|the head of the city; a banker|a bank manager; a general|an army commander;"
        "a priest|a clergyman; a senator|a lawmaker"
    ),
    "crime": slot(
        "fraud|deception; bribery|corruption; murder|homicide; theft|stealing;"
        "tax evasion|dodging taxes"
    ),
    "chamber": slot("parliament|the legislature; the senate|the upper house; the lower house"),
    "bill": slot(
        "a gun control law|firearm legislation; the annual budget|the yearly spending bill;"
        "a ban on smoking|an anti-tobacco law; the trade treaty|the commercial accord"
    ),
    "commodity": slot(
        "oil|crude; gold|bullion; wheat|grain; copper|the red metal; electricity|power",
        broader="a commodity",
    ),
    "share": slot("half|50 percent; a quarter|25 percent; a tenth|10 percent; a fifth|20 percent"),
    "team": slot(
        "France|the French team; Japan|the Japanese side; Brazil|the Brazilian squad;"
        "Germany|the German players; Morocco|the Moroccan team"
    ),
    "match": slot(
        "the final|the deciding game; the semi-final|the last-four match;"
        "the opening match|the first game"
    ),
    "facility": slot(
        "the bridge|the crossing; the museum|the gallery; the factory|the mill;"
        "the tunnel|the underpass; the stadium|the arena"
    ),
    "closure": slot(
        "a strike|a walkout; a power cut|a blackout; a bomb threat|a security alert;"
        "a renovation|a refurbishment"
    ),
    "habit": slot(
        "coffee|caffeine; chocolate|cocoa; exercise|physical activity; alcohol|strong drink;"
        "too little rest|insufficient rest"
    ),
    "disease": slot(
        "heart disease|heart trouble; cancer|malignant tumours; memory loss|forgetfulness;"
        "high blood pressure|hypertension"
    ),
}

FRAMES = (
    Frame(
        topic="economy",
        same=(
            "The [central bank|monetary authority] [raised|increased] interest rates by {points} "
            "{nth} {time}.",
            "{time}, [borrowing costs|interest rates] were [lifted|put up] by {points} {nth}.",
            "Interest rates [went up|rose] by {points} {nth} {time}.",
        ),
        opposite=(
            "The [central bank|monetary authority] [cut|lowered] interest rates by {points} "
            "{nth} {time}.",
            "{time}, [borrowing costs|interest rates] were reduced by {points} {nth}.",
            "Interest rates [went down|fell] by {points} {nth} {time}.",
        ),
    ),
    Frame(
        topic="economy",
        same=(
            "{authority} [raised|increased|put up] {charge} {time}.",
            "{charge} were [raised|increased|put up] by {authority} {time}.",
            "{time}, {authority} made {charge} [higher|bigger].",
        ),
        opposite=(
            "{authority} [cut|lowered|froze] {charge} {time}.",
            "{charge} were [cut|lowered|reduced] by {authority} {time}.",
            "{time}, {authority} made {charge} [lower|smaller].",
        ),
    ),
    Frame(
        topic="economy",
        same=(
            "The price of {commodity} [rose|climbed] by {share} {time}.",
            "{time}, {commodity} became {share} [more expensive|dearer].",
            "{commodity} [went up|gained] {share} in price {time}.",
        ),
        opposite=(
            "The price of {commodity} [fell|dropped] by {share} {time}.",
            "{time}, {commodity} became {share} [less expensive|cheaper].",
            "{commodity} [went down|lost] {share} in price {time}.",
        ),
    ),
    Frame(
        topic="business",
        same=(
            "{company} [reported|announced] a profit of {money} {time}.",
            "{time}, {company} said it had [earned|made] {money}.",
            "A profit of {money} was [reported|posted] by {company} {time}.",
        ),
        opposite=(
            "{company} [reported|announced] a loss of {money} {time}.",
            "{time}, {company} said it had [lost|wasted] {money}.",
            "A loss of {money} was [reported|posted] by {company} {time}.",
        ),
    ),
    Frame(
        topic="business",
        same=(
            "{company} [hired|recruited|took on] {count} workers {time}.",
            "{count} [people|workers] were [given jobs|recruited] by {company} {time}.",
            "{time}, {company} [expanded|enlarged] its workforce by {count} [people|employees].",
        ),
        opposite=(
            "{company} [fired|dismissed|laid off] {count} workers {time}.",
            "{count} [people|workers] were [made redundant|dismissed] by {company} {time}.",
            "{time}, {company} [shrank|reduced] its workforce by {count} [people|employees].",
        ),
    ),
    Frame(
        topic="accidents",
        same=(
            "{disaster} killed {num} people {region} {time}.",
            "{num} people [died|lost their lives] in {disaster} {region} {time}.",
            "{time}, {disaster} claimed the lives of {num} people {region}.",
        ),
        opposite=(
            "{disaster} [spared|trapped] {num} people {region} {time}.",
            "{num} people [escaped unhurt|were rescued alive] in {disaster} {region} {time}.",
            "{time}, {disaster} [changed|did not end] the lives of {num} people {region}.",
        ),
    ),
    Frame(
        topic="accidents",
        same=(
            "{facility} [reopened|opened again] {time} after {closure}.",
            "After {closure}, {facility} was [open again|in use again] {time}.",
            "{time}, {facility} [returned to service|resumed normal service] following {closure}.",
        ),
        opposite=(
            "{facility} [closed|shut down] {time} after {closure}.",
            "After {closure}, {facility} was [still closed|out of use] {time}.",
            "{time}, {facility} [remained out of service|suspended normal service] "
            "following {closure}.",
        ),
    ),
    Frame(
        topic="politics",
        same=(
            "A court [convicted {official}|found {official} guilty] of {crime} {time}.",
            "{official} was [convicted|found guilty] of {crime} {time}.",
            "{time}, a court [declared|ruled] that {official} was guilty of {crime}.",
        ),
        opposite=(
            "A court [acquitted {official}|found {official} innocent] of {crime} {time}.",
            "{official} was [acquitted|found innocent] of {crime} {time}.",
            "{time}, a court [declared|ruled] that {official} was innocent of {crime}.",
        ),
    ),
    Frame(
        topic="politics",
        same=(
            "{chamber} [passed|approved|adopted] {bill} {time}.",
            "{bill} was [passed|approved|adopted] by {chamber} {time}.",
            "{time}, {chamber} [voted for|voted in favour of] {bill}.",
        ),
        opposite=(
            "{chamber} [rejected|blocked|threw out] {bill} {time}.",
            "{bill} was [rejected|blocked|thrown out] by {chamber} {time}.",
            "{time}, {chamber} voted against {bill}.",
        ),
    ),
    Frame(
        topic="sport",
        same=(
            "{team} [beat|defeated] {team2} in {match} {time}.",
            "{team2} lost to {team} in {match} {time}.",
            "{time}, {team} won {match} against {team2}.",
            "{team2} suffered defeat to {team} in {match} {time}.",
        ),
        opposite=(
            "{team} [drew with|lost to] {team2} in {match} {time}.",
            "{team2} [won against|drew with] {team} in {match} {time}.",
            "{time}, {team} lost {match} against {team2}.",
            "{team2} [inflicted defeat on|avoided defeat by] {team} in {match} {time}.",
        ),
        swap=("team", "team2"),
    ),
    Frame(
        topic="health",
        same=(
            "{habit} [raises|increases] the risk of {disease}, researchers said {time}.",
            "People are more [likely|prone] to [get|contract] {disease} because of {habit}, "
            "a study showed {time}.",
            "{habit} makes {disease} more [likely|common], scientists said {time}.",
        ),
        opposite=(
            "{habit} [lowers|reduces] the risk of {disease}, researchers said {time}.",
            "People are less likely to [get|contract] {disease} because of {habit}, "
            "a study showed {time}.",
            "{habit} makes {disease} less [likely|common], scientists said {time}.",
        ),
    ),
)
