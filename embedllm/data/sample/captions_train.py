"""Caption-like slots and frames of the training triplets."""

from __future__ import annotations

from embedllm.data.sample.grammar import Frame, slot

SLOTS = {
    "who": slot(
        "a man|a guy|a gentleman; a woman|a lady; a boy|a lad; a girl|a schoolgirl;"
        "a worker|a labourer; a soldier|a trooper",
        broader="someone|a person",
    ),
    "wear": slot(
        "in a red jacket|wearing a scarlet coat; in a blue shirt|dressed in a blue top;"
        "with a black hat|wearing a dark cap; in green trousers|wearing green pants;"
        "with a white scarf|wearing a pale shawl",
        is_detail=True,
    ),
    "place": slot(
        "in front of a shop|outside a store; beside a lake|next to a pond;"
        "on a busy street|on a crowded road; at a station|at a railway stop;"
        "behind a house|at the rear of a home",
        is_detail=True,
    ),
    "vehicle": slot(
        "a bicycle|a bike; a car|an automobile; a motorcycle|a motorbike; a truck|a lorry;"
        "a scooter|a moped; a van|a minibus",
        broader="a vehicle",
    ),
    "food": slot(
        "a steak|a slice of beef; a burger|a hamburger; a cookie|a biscuit;"
        "a pastry|a sweet bun; a bowl of noodles|a plate of pasta",
        broader="some food",
    ),
    "instrument": slot(
        "a violin|a fiddle; a piano|a keyboard; a harmonica|a mouth organ;"
        "a guitar|a six-string; an accordion|a squeezebox",
        broader="a musical instrument",
    ),
    "container": slot(
        "a suitcase|a travel bag; a wooden box|a crate; a cupboard|a cabinet; a wallet|a purse;"
        "an envelope|a letter"
    ),
    "garment": slot(
        "a sweater|a pullover; a helmet|a hard hat; a raincoat|a waterproof;"
        "a pair of sunglasses|a pair of dark glasses; a tie|a necktie"
    ),
    "seat": slot(
        "a sofa|a couch; a fence|a railing; a rug|a carpet; a bench|a wooden seat;a bed|a mattress"
    ),
    "height": slot(
        "a hill|a slope; a mountain|a peak; a flight of stairs|a staircase;"
        "a ladder|a stepladder; a rope|a cord"
    ),
    "animal": slot(
        "a dog|a hound; a cat|a feline; a rabbit|a bunny; a pig|a hog; a donkey; a goose",
        broader="an animal|a creature",
    ),
    "ground": slot(
        "across a field|through a meadow; through the snow|over snowy ground;"
        "along a path|down a trail; in a yard|around a courtyard;"
        "in a forest|among the trees",
        is_detail=True,
    ),
}

FRAMES = (
    Frame(
        topic="street",
        same=(
            "{who} {wear} is [repairing|fixing|mending] {vehicle} {place}.",
            "{vehicle} is being [repaired|fixed|mended] by {who} {wear} {place}.",
            "{place}, {who} {wear} is [fixing|repairing] {vehicle}.",
            "There is {who} {wear} [mending|repairing] {vehicle} {place}.",
        ),
        opposite=(
            "{who} {wear} is [damaging|wrecking|breaking] {vehicle} {place}.",
            "{vehicle} is being [damaged|wrecked|broken] by {who} {wear} {place}.",
            "{place}, {who} {wear} is not [fixing|repairing] {vehicle}.",
            "There is {who} {wear} [stealing|smashing] {vehicle} {place}.",
        ),
    ),
    Frame(
        topic="street",
        same=(
            "{who} {wear} is [washing|cleaning|scrubbing] {vehicle} {place}.",
            "{vehicle} is being [washed|cleaned] by {who} {wear} {place}.",
            "{who} {wear} is [getting the dirt off|hosing down] {vehicle} {place}.",
        ),
        opposite=(
            "{who} {wear} is [driving|pushing|loading] {vehicle} {place}.",
            "{vehicle} is being [pushed|loaded|driven] by {who} {wear} {place}.",
            "{who} {wear} is [throwing dirt at|not cleaning] {vehicle} {place}.",
        ),
    ),
    Frame(
        topic="leisure",
        same=(
            "{who} {wear} is [eating|consuming|munching] {food} {place}.",
            "{place}, {food} is being [eaten|devoured] by {who} {wear}.",
            "{who} {wear} is [having|enjoying] {food} {place}.",
        ),
        opposite=(
            "{who} {wear} is [cooking|throwing away|selling] {food} {place}.",
            "{place}, {food} is being [cooked|thrown away|sold] by {who} {wear}.",
            "{who} {wear} is [not having|not tasting] {food} {place}.",
        ),
    ),
    Frame(
        topic="leisure",
        same=(
            "{who} {wear} is playing {instrument} {place}.",
            "{place}, {who} {wear} is [making music|performing a song] on {instrument}.",
            "{who} {wear} [performs a tune|makes music] on {instrument} {place}.",
        ),
        opposite=(
            "{who} {wear} is [not playing|smashing|putting away] {instrument} {place}.",
            "{place}, {who} {wear} is [dropping something heavy|napping] on {instrument}.",
            "{who} {wear} [spills a drink|puts a price tag] on {instrument} {place}.",
        ),
    ),
    Frame(
        topic="home",
        same=(
            "{who} {wear} is opening {container} {place}.",
            "{container} is being opened by {who} {wear} {place}.",
            "{who} {wear} is [undoing|unsealing] {container} {place}.",
        ),
        opposite=(
            "{who} {wear} is [closing|shutting] {container} {place}.",
            "{container} is being [closed|shut] by {who} {wear} {place}.",
            "{who} {wear} is [sealing|fastening|not opening] {container} {place}.",
        ),
    ),
    Frame(
        topic="home",
        same=(
            "{who} is putting on {garment} {place}.",
            "{place}, {who} is [getting dressed in|slipping into] {garment}.",
            "{garment} is being put on by {who} {place}.",
        ),
        opposite=(
            "{who} is [taking off|removing] {garment} {place}.",
            "{place}, {who} is [getting rid of|slipping out of] {garment}.",
            "{garment} is being taken off by {who} {place}.",
        ),
    ),
    Frame(
        topic="home",
        same=(
            "{num} [children|kids] are [sitting|seated] on {seat} {place}.",
            "{place}, {num} [kids|youngsters] are [sitting|resting] on {seat}.",
            "There are {num} [children|youngsters] [sitting|seated] on {seat} {place}.",
        ),
        opposite=(
            "{num} [children|kids] are [jumping|standing up] on {seat} {place}.",
            "{place}, {num} [kids|youngsters] are [dancing|jumping] on {seat}.",
            "There are {num} [children|youngsters] [standing|wrestling] on {seat} {place}.",
        ),
    ),
    Frame(
        topic="outdoors",
        same=(
            "{who} {wear} is [climbing up|going up] {height} {place}.",
            "{who} {wear} is [ascending|scaling] {height} {place}.",
            "{place}, {who} {wear} is [on the way up|climbing to the top of] {height}.",
        ),
        opposite=(
            "{who} {wear} is [climbing down|going down] {height} {place}.",
            "{who} {wear} is [descending|coming down] {height} {place}.",
            "{place}, {who} {wear} is [on the way down|resting at the foot of] {height}.",
        ),
    ),
    Frame(
        topic="outdoors",
        same=(
            "{animal} is [chasing|pursuing] {animal2} {ground}.",
            "{animal2} is being [chased|hunted] by {animal} {ground}.",
            "{animal2} is [running away|fleeing] from {animal} {ground}.",
        ),
        opposite=(
            "{animal} is [ignoring|cuddling] {animal2} {ground}.",
            "{animal2} is being [ignored|cuddled] by {animal} {ground}.",
            "{animal2} is [not running|taking food] from {animal} {ground}.",
        ),
        swap=("animal", "animal2"),
    ),
)
