"""Slots and frames of the test pairs; no content word occurs in another split."""

from __future__ import annotations

from embedllm.data.sample.grammar import Frame, slot

SLOTS = {
    "pro": slot(
        "a doctor|a physician; a toddler|a tiny infant; a sailor|a mariner;"
        "a teacher|an instructor; a policeman|a cop; a thief|a burglar",
        broader="a human",
    ),
    "look": slot(
        "with curly hair|with curls; in an orange robe|in an orange gown;"
        "with silver earrings|with earrings of silver; in sandals|in leather sandals",
        is_detail=True,
    ),
    "room": slot(
        "inside a tent|under canvas; aboard a submarine|on an undersea vessel;"
        "in a canteen|in a refectory; in a library|among bookshelves",
        is_detail=True,
    ),
    "dish": slot(
        "a soup|a broth; a cake|a gateau; a curry|a spicy stew; a pudding|a custard;"
        "a salad|a dish of raw vegetables",
        broader="a dish",
    ),
    "spice": slot("salt|sodium chloride; honey|nectar; cinnamon; butter|margarine; vinegar"),
    "speech": slot(
        "a secret|a confidential tale; a warning|a word of caution; a poem|some verses;"
        "a compliment|a flattering word"
    ),
    "show": slot(
        "a lecture|an academic talk; a film|a movie; an opera|a sung drama;"
        "a wedding|a marriage ceremony"
    ),
    "picture": slot(
        "a mirror|a looking glass; a portrait|a likeness; a map|a chart; a calendar; a clock"
    ),
    "when": slot(
        "this morning|earlier today; at dawn|at sunrise; in October|in mid-autumn;"
        "on Friday evening|on Friday after dusk",
        is_detail=True,
    ),
    "firm": slot(
        "the brewery|the beer producer; the insurer|the insurance group;"
        "the newspaper|the daily gazette; the shipyard|the naval dock;"
        "the fashion label|the clothing brand; the software developer|the coding studio"
    ),
    "sum": slot(
        "thirteen thousand pounds|13,000 pounds; eight million pounds|8,000,000 pounds;"
        "sixty million pounds|60,000,000 pounds",
        broader="a sizeable amount",
    ),
    "hospital": slot(
        "the clinic|the medical centre; the military hospital|the hospital for veterans;"
        "the mission hospital|the infirmary run by missionaries"
    ),
    "patients": slot(
        "eighteen patients|18 patients; forty-five patients|45 patients;"
        "ninety patients|90 patients;"
        "eleven patients|11 patients",
        broader="several patients",
    ),
    "remedy": slot(
        "the vaccine|the inoculation; the ointment|the skin cream;"
        "the herbal tea|the tea brewed from herbs; the antibiotic|the bacteria-fighting pill"
    ),
    "illness": slot(
        "malaria|mosquito-borne fever; asthma|chronic wheezing; influenza|the flu;"
        "measles|rubeola; migraine|severe headache"
    ),
    "suspect": slot(
        "a lawyer|an attorney; a plumber|a pipe fitter; a gardener|a groundskeeper;"
        "a celebrity chef|a famous chef; a journalist|a news correspondent"
    ),
    "offence": slot(
        "a kidnapping|an abduction; smuggling|illicit border trafficking; vandalism|"
        "spraying graffiti; arson|burning property; perjury|lying under oath"
    ),
    "probe": slot(
        "the European probe|Europe's spacecraft; the Indian capsule|India's capsule;"
        "the American rover|the rover from the United States"
    ),
    "planet": slot(
        "Mars|the planet Mars; the moon|our nearest celestial neighbour;"
        "a distant asteroid|a faraway asteroid; Venus|the planet Venus"
    ),
    "finding": slot("methane gas|methane; frozen liquid|ice; microbes|microscopic life; dust"),
}

FRAMES = (
    Frame(
        topic="cooking",
        same=(
            "{pro} {look} [adds|introduces] {spice} to {dish} {room}.",
            "{room}, {pro} {look} [seasons|flavours] {dish} with {spice}.",
            "{dish} has {spice} [added|stirred in] by {pro} {look} {room}.",
        ),
        opposite=(
            "{pro} {look} [forgets|refuses] to add {spice} to {dish} {room}.",
            "{room}, {pro} {look} [refuses to season|never flavours] {dish} with {spice}.",
            "{dish} has {spice} [left out|filtered out] by {pro} {look} {room}.",
        ),
    ),
    Frame(
        topic="cooking",
        same=(
            "{pro} {look} [prepared|concocted] {dish} {room} {when}.",
            "{when}, {dish} was [prepared|whipped up] by {pro} {look} {room}.",
            "{pro} {look} [concocted|whipped up] {dish} {room} {when}.",
        ),
        opposite=(
            "{pro} {look} [discarded|spat out] {dish} {room} {when}.",
            "{when}, {dish} was [discarded|spat out] by {pro} {look} {room}.",
            "{pro} {look} [declined|complained about] {dish} {room} {when}.",
        ),
    ),
    Frame(
        topic="company",
        same=(
            "{pro} {look} [whispers|murmurs] {speech} to {pro2} {room}.",
            "{pro2} hears {speech} [softly|in a hushed voice] from {pro} {look} {room}.",
            "{room}, {pro} {look} [softly tells|quietly tells] {pro2} {speech}.",
        ),
        opposite=(
            "{pro} {look} [shouts|yells] {speech} to {pro2} {room}.",
            "{pro2} hears {speech} [loudly|in a booming voice] from {pro} {look} {room}.",
            "{room}, {pro} {look} [loudly bellows|never tells] {pro2} {speech}.",
        ),
        swap=("pro", "pro2"),
    ),
    Frame(
        topic="company",
        same=(
            "{pro} {look} [drifted off|dozed off] during {show} {when}.",
            "{when}, {show} [sent|lulled] {pro} {look} to sleep.",
            "{pro} {look} [nodded off|started snoring] in the middle of {show} {when}.",
        ),
        opposite=(
            "{pro} {look} [listened attentively|scribbled notes] during {show} {when}.",
            "{when}, {show} robbed {pro} {look} of sleep.",
            "{pro} {look} [woke up|cheered] in the middle of {show} {when}.",
        ),
    ),
    Frame(
        topic="interior",
        same=(
            "{pro} {look} [hangs|mounts] {picture} {room}.",
            "{room}, {picture} is [hung|attached] by {pro} {look}.",
            "{pro} {look} [attaches|puts up] {picture} {room}.",
        ),
        opposite=(
            "{pro} {look} [unhooks|hides] {picture} {room}.",
            "{room}, {picture} is [detached|hidden] by {pro} {look}.",
            "{pro} {look} [tosses|shatters] {picture} {room}.",
        ),
    ),
    Frame(
        topic="interior",
        same=(
            "{pro} {look} [polished|wiped] {picture} {when}.",
            "{when}, {pro} {look} gave {picture} a [shine|polish].",
            "{picture} was [polished|dusted] by {pro} {look} {when}.",
        ),
        opposite=(
            "{pro} {look} [scratched|smeared] {picture} {when}.",
            "{when}, {pro} {look} gave {picture} a [scratch|stain].",
            "{picture} was [scratched|smeared] by {pro} {look} {when}.",
        ),
    ),
    Frame(
        topic="takeovers",
        same=(
            "{firm} [acquired|purchased] {firm2} for {sum} {when}.",
            "{firm2} was swallowed by {firm} after a deal worth {sum} {when}.",
            "{when}, {firm} [paid|spent] {sum} to [acquire|own] {firm2}.",
        ),
        opposite=(
            "{firm} [sued|blackmailed] {firm2} for {sum} {when}.",
            "{firm2} competed with {firm} after a deal worth {sum} {when}.",
            "{when}, {firm} [paid|accepted] {sum} to [leave|divest] {firm2}.",
        ),
        swap=("firm", "firm2"),
    ),
    Frame(
        topic="takeovers",
        same=(
            "{firm} [obtained|secured] an order from {firm2} worth {sum} {when}.",
            "{when}, {firm2} [placed|signed] an order with {firm} for {sum}.",
            "{firm} agreed to supply {firm2} in an agreement worth {sum} {when}.",
        ),
        opposite=(
            "{firm} [forfeited|declined] an order from {firm2} worth {sum} {when}.",
            "{when}, {firm2} [cancelled|disputed] an order with {firm} for {sum}.",
            "{firm} vowed to boycott {firm2} in an argument worth {sum} {when}.",
        ),
        swap=("firm", "firm2"),
    ),
    Frame(
        topic="medicine",
        same=(
            "{hospital} [admitted|accepted] {patients} with {illness} {when}.",
            "{when}, {patients} with {illness} were [admitted|transferred] to {hospital}.",
            "{patients} diagnosed with {illness} [entered|checked into] {hospital} {when}.",
        ),
        opposite=(
            "{hospital} [discharged|released] {patients} with {illness} {when}.",
            "{when}, {patients} with {illness} were [denied entry|refused entry] to {hospital}.",
            "{patients} diagnosed with {illness} [left|exited] {hospital} {when}.",
        ),
    ),
    Frame(
        topic="medicine",
        same=(
            "{remedy} [proved effective|functioned well] against {illness} {when}.",
            "{when}, {remedy} [cured|healed] {illness} [efficiently|quickly].",
            "{illness} was tackled [successfully|effectively] with {remedy} {when}.",
        ),
        opposite=(
            "{remedy} [proved useless|failed badly] against {illness} {when}.",
            "{when}, {remedy} [worsened|provoked] {illness} [severely|quickly].",
            "{illness} was tackled [unsuccessfully|in vain] with {remedy} {when}.",
        ),
    ),
    Frame(
        topic="policing",
        same=(
            "Police [arrested|detained] {suspect} over {offence} {when}.",
            "{suspect} was [handcuffed|arrested] for {offence} {when}.",
            "{when}, {offence} landed {suspect} in [jail|prison].",
        ),
        opposite=(
            "Police [released|pardoned] {suspect} over {offence} {when}.",
            "{suspect} was [exonerated|compensated] for {offence} {when}.",
            "{when}, {offence} steered {suspect} away from [jail|prison].",
        ),
    ),
    Frame(
        topic="policing",
        same=(
            "{suspect} [confessed|owned up] to {offence} {when}.",
            "{when}, {suspect} [acknowledged responsibility|accepted the blame] for {offence}.",
            "{suspect} [told the truth about|openly admitted] {offence} {when}.",
        ),
        opposite=(
            "{suspect} [objected|testified] to {offence} {when}.",
            "{when}, {suspect} [denied responsibility|shrugged off the blame] for {offence}.",
            "{suspect} [told lies about|openly denied] {offence} {when}.",
        ),
    ),
    Frame(
        topic="space",
        same=(
            "{probe} [landed|touched down] on {planet} {when}.",
            "{when}, {probe} [reached|got to] the surface of {planet}.",
            "{planet} [welcomed|hosted] {probe} {when}.",
        ),
        opposite=(
            "{probe} [exploded|malfunctioned] on {planet} {when}.",
            "{when}, {probe} [missed|overshot] the surface of {planet}.",
            "{planet} was [missed|bypassed] by {probe} {when}.",
        ),
    ),
    Frame(
        topic="space",
        same=(
            "{probe} [discovered|detected] {finding} on {planet} {when}.",
            "{when}, {finding} was [spotted|detected] on {planet} by {probe}.",
            "{planet} [contained|held] {finding}, data from {probe} revealed {when}.",
        ),
        opposite=(
            "{probe} [failed to detect|never detected] {finding} on {planet} {when}.",
            "{when}, {finding} was sought in vain on {planet} by {probe}.",
            "{planet} lacked {finding}, data from {probe} revealed {when}.",
        ),
    ),
)
