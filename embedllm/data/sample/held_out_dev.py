"""Slots and frames of the dev pairs; no content word occurs in another split."""

from __future__ import annotations

from embedllm.data.sample.grammar import Frame, slot

SLOTS = {
    "person": slot(
        "a teenager|an adolescent; a grandmother|a granny; a student|a pupil;"
        "a tourist|a sightseer; a nun|a religious sister; a clown|a jester",
        broader="somebody|an individual",
    ),
    "outfit": slot(
        "in a yellow vest|in an amber waistcoat; with a striped umbrella|with a striped parasol;"
        "in a purple skirt|in a violet kilt; with a long beard|with long whiskers",
        is_detail=True,
    ),
    "spot": slot(
        "by a castle|near an old fortress; under a palm|beneath a coconut palm;"
        "on a terrace|on a patio; beyond a windmill|past a windmill",
        is_detail=True,
    ),
    "flower": slot(
        "tulips|tulip bulbs; potatoes|spuds; lilies|lily bulbs; oak saplings|young oaks;"
        "strawberries|strawberry seedlings",
        broader="greenery",
    ),
    "sculpture": slot(
        "a sand fort|a fort of sand; a bamboo lantern|a lantern of bamboo;"
        "a clay pot|an earthenware jug; a paper kite|a kite of folded paper",
    ),
    "landmark": slot(
        "a lighthouse|a beacon tower; an island|an isle; a raft|a floating platform;"
        "a rowboat|a dinghy"
    ),
    "bird": slot(
        "an eagle|a bird of prey; a crow|a raven; a duck|a mallard; a swan|a cygnet;"
        "a penguin; an ostrich",
        broader="a bird",
    ),
    "prey": slot("a worm|a grub; a fish|a trout; a frog|a toad; a snail|a slug; a mouse|a rodent"),
    "season": slot(
        "this spring|between March and May; at noon|at midday;"
        "overnight|during the night; in August|in late summer",
        is_detail=True,
    ),
    "port": slot(
        "Oslo|the Norwegian harbour; Lisbon|the Portuguese harbour;"
        "Naples|the Italian harbour; Dover|the English harbour"
    ),
    "ship": slot(
        "the ferry|the passenger boat; the tanker|the chemicals ship;"
        "the cruise liner|the cruise ship"
    ),
    "politician": slot(
        "the defence minister|the secretary of defence; the ambassador|the chief envoy;"
        "the governor; the party chairman|the party boss;"
        "the vice president|the deputy president"
    ),
    "plan": slot(
        "the nuclear programme|the atomic programme; the immigration reform|the migration reform;"
        "the privatisation plan|the scheme for privatisation;"
        "the fishing quota|the limit on fishing"
    ),
    "scandal": slot(
        "a leaked memo|a memo leaked to bloggers; an affair|an extramarital romance;"
        "a forged diploma|a faked degree; an insulting remark|an offensive comment"
    ),
    "valley": slot(
        "the southern plain|the flat south; the eastern valley|the vale to the east;"
        "the western desert|the arid west; the delta|the branching river"
    ),
    "degrees": slot(
        "nine degrees; fifteen degrees; thirty degrees; thirty-five degrees", broader="many degrees"
    ),
    "river": slot(
        "the canal|the waterway; the river|the stream; the reservoir|the basin;the marsh|the swamp"
    ),
    "metres": slot(
        "one metre|100 centimetres; one and a half metres|150 centimetres;"
        "four metres|400 centimetres"
    ),
}

FRAMES = (
    Frame(
        topic="gardening",
        same=(
            "{person} {outfit} [plants|sows] {flower} {spot}.",
            "{spot}, {flower} get [planted|sown] by {person} {outfit}.",
            "{person} {outfit} [puts {flower} into the soil|sets {flower} in the earth] {spot}.",
        ),
        opposite=(
            "{person} {outfit} [uproots|tramples] {flower} {spot}.",
            "{spot}, {flower} get [uprooted|trampled] by {person} {outfit}.",
            "{person} {outfit} [pulls {flower} out of the soil|tears {flower} from the earth] "
            "{spot}.",
        ),
    ),
    Frame(
        topic="gardening",
        same=(
            "{person} {outfit} [waters|sprinkles] {flower} {spot}.",
            "{person} {outfit} keeps {flower} [moist|damp] {spot}.",
            "{spot}, {flower} get [watered|sprinkled] by {person} {outfit}.",
        ),
        opposite=(
            "{person} {outfit} [neglects|photographs] {flower} {spot}.",
            "{person} {outfit} keeps {flower} [dry|thirsty] {spot}.",
            "{spot}, {flower} get [neglected|photographed] by {person} {outfit}.",
        ),
    ),
    Frame(
        topic="holiday",
        same=(
            "{person} {outfit} [builds|creates] {sculpture} {spot}.",
            "{spot}, {sculpture} gets [built|assembled] by {person} {outfit}.",
            "{person} {outfit} [shapes|models] {sculpture} {spot}.",
        ),
        opposite=(
            "{person} {outfit} [destroys|flattens] {sculpture} {spot}.",
            "{spot}, {sculpture} gets [destroyed|flattened] by {person} {outfit}.",
            "{person} {outfit} [demolishes|ruins] {sculpture} {spot}.",
        ),
    ),
    Frame(
        topic="holiday",
        same=(
            "{person} {outfit} [swims|paddles] toward {landmark} {season}.",
            "{season}, {person} {outfit} [approaches|nears] {landmark} by swimming.",
            "{person} {outfit} [swims|paddles] in the direction of {landmark} {season}.",
        ),
        opposite=(
            "{person} {outfit} [swims|paddles] away from {landmark} {season}.",
            "{season}, {person} {outfit} [evades|moves farther from] {landmark} by swimming.",
            "{person} {outfit} [swims|paddles] in circles far from {landmark} {season}.",
        ),
    ),
    Frame(
        topic="wildlife",
        same=(
            "{bird} [attacks|ambushes] {bird2} {spot}.",
            "{spot}, {bird2} gets [attacked|pecked] by {bird}.",
            "{bird2} is the victim of [an attack|an assault] by {bird} {spot}.",
        ),
        opposite=(
            "{bird} [protects|shelters] {bird2} {spot}.",
            "{spot}, {bird2} gets [protected|sheltered] by {bird}.",
            "{bird2} is the [partner|playmate] of {bird} {spot}.",
        ),
        swap=("bird", "bird2"),
    ),
    Frame(
        topic="wildlife",
        same=(
            "{bird} [catches|captures] {prey} {spot} {season}.",
            "{season}, {prey} gets [caught|captured] by {bird} {spot}.",
            "{bird} [grabs|seizes] {prey} {spot} {season}.",
        ),
        opposite=(
            "{bird} [overlooks|shuns] {prey} {spot} {season}.",
            "{season}, {prey} gets [overlooked|shunned] by {bird} {spot}.",
            "{bird} [frees|tires of] {prey} {spot} {season}.",
        ),
    ),
    Frame(
        topic="shipping",
        same=(
            "{ship} to {port} [departed|sailed] [punctually|on schedule] {season}.",
            "{season}, {ship} [set off|departed] for {port} without any delay.",
            "{ship} bound for {port} [sailed|set off] right on schedule {season}.",
        ),
        opposite=(
            "{ship} to {port} [departed|sailed] [belatedly|behind schedule] {season}.",
            "{season}, {ship} [set off|departed] for {port} with a lengthy delay.",
            "{ship} bound for {port} [sank|ran aground] right on schedule {season}.",
        ),
    ),
    Frame(
        topic="shipping",
        same=(
            "{ship} [hauled|delivered] its cargo from {port} to {port2} {season}.",
            "{season}, {port2} received the [freight|cargo] of {ship} from {port}.",
            "The [freight|cargo] of {ship} [arrived|turned up] in {port2} from {port} {season}.",
        ),
        opposite=(
            "{ship} [dumped|abandoned] its cargo from {port} to {port2} {season}.",
            "{season}, {port2} refunded the [freight|cargo] of {ship} from {port}.",
            "The [freight|cargo] of {ship} [vanished|perished] in {port2} from {port} {season}.",
        ),
        swap=("port", "port2"),
    ),
    Frame(
        topic="government",
        same=(
            "{politician} [defended|backed] {plan} {season}.",
            "{plan} [received|had] the [support|backing] of {politician} {season}.",
            "{season}, {politician} spoke [in support|in defence] of {plan}.",
        ),
        opposite=(
            "{politician} [opposed|attacked] {plan} {season}.",
            "{plan} [never had|did without] the [support|backing] of {politician} {season}.",
            "{season}, {politician} spoke in opposition to {plan}.",
        ),
    ),
    Frame(
        topic="government",
        same=(
            "{politician} [resigned|quit] over {scandal} {season}.",
            "{scandal} [forced|drove] {politician} from office {season}.",
            "{season}, {politician} stepped [down|aside] owing to {scandal}.",
        ),
        opposite=(
            "{politician} [apologised|joked] over {scandal} {season}.",
            "{scandal} [propelled|catapulted] {politician} into office {season}.",
            "{season}, {politician} stayed [put|in office] despite {scandal}.",
        ),
    ),
    Frame(
        topic="weather",
        same=(
            "Forecasters expect {valley} to [warm|heat up] to {degrees} {season}.",
            "{season}, temperatures in {valley} should [soar|leap] to {degrees}.",
            "{valley} will be as [hot|warm] as {degrees} {season}, forecasters predict.",
        ),
        opposite=(
            "Forecasters expect {valley} to [cool|chill] to {degrees} {season}.",
            "{season}, temperatures in {valley} should [plunge|tumble] to {degrees}.",
            "{valley} will be as [cold|cool] as {degrees} {season}, forecasters predict.",
        ),
    ),
    Frame(
        topic="weather",
        same=(
            "{river} [swelled|deepened] by {metres} {season}.",
            "The level of {river} [grew|swelled] by {metres} {season}.",
            "{season}, {river} was {metres} deeper.",
        ),
        opposite=(
            "{river} [receded|subsided] by {metres} {season}.",
            "The level of {river} [sank|dwindled] by {metres} {season}.",
            "{season}, {river} was {metres} shallower.",
        ),
    ),
)
