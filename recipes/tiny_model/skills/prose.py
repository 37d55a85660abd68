"""Short stories and descriptions from a grammar of our own: free text with many ways to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiny_model import words
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand

if TYPE_CHECKING:
    import random

TOPICS = {
    "sea": "wave harbour ship sailor island shore gull storm anchor lighthouse tide net shell captain reef bay whale sand fish wind",
    "forest": "tree fox path owl leaf moss river deer hunter clearing branch root mushroom bird shadow wolf stream cabin berry hill",
    "city": "street tower market bridge train window crowd square lamp station roof door bakery bus clock square alley park bell river",
    "winter": "snow ice fire coat sled frost chimney night lake blanket candle crow pine village soup boot star mitten valley wind",
    "mountain": "peak valley goat cloud stone trail hut eagle snow river guide rope cliff meadow echo pass spring sheep bell climber",
    "garden": "rose bee gate wall apple path seed bench rain gardener hedge pond frog cat tulip spade basket bird tree wall",
    "night": "moon star owl lamp window street dream cat shadow clock fire road candle silence roof traveller song wind door bridge",
    "robot": "machine wire lamp workshop arm wheel battery engine table inventor screw door button voice street clock sensor box cable child",
    "space": "star ship planet moon captain engine window comet signal crew silence light door station map dust ring voyage sun suit",
    "house": "door window kitchen stair attic lamp cat table clock key roof garden chair letter mirror room guest chimney book wall",
    "king": "castle crown queen throne knight horse sword tower minister feast gate garden river map ring messenger road village song gold",
    "river": "boat bridge fish stone bank mill reed child ferry frog bend village rope lantern water heron willow road rain meadow",
    "desert": "sand camel dune well star tent wind stone trader road night snake sun shade rope song water market lizard map",
    "train": "station window ticket rail whistle bridge suitcase tunnel guard village night clock platform traveller letter hat seat light field coffee",
    "summer": "sun beach field bee lemonade swallow meadow lake bike evening storm cherry road song tent picnic boat cloud dust grass",
    "dog": "ball park bone street garden child door river field cat lead stick bed friend walk fence shoe hill barn master",
    "music": "song drum violin singer dancer stage night piano friend street window voice crowd hall evening flute bell rhythm lamp string",
    "library": "book shelf reader lamp page clock silence door letter map window key stair story dust ladder chair student cat desk",
}
ADJECTIVES = [
    "old",
    "young",
    "small",
    "great",
    "quiet",
    "loud",
    "bright",
    "dark",
    "cold",
    "warm",
    "strange",
    "gentle",
    "brave",
    "tired",
    "clever",
    "green",
    "blue",
    "red",
    "silver",
    "golden",
    "grey",
    "lonely",
    "proud",
    "patient",
    "wild",
    "soft",
    "broken",
    "hidden",
    "empty",
    "heavy",
    "distant",
    "narrow",
    "wide",
    "rusty",
    "wet",
    "dry",
    "sleepy",
    "hungry",
    "curious",
    "kind",
    "slow",
    "quick",
    "silent",
    "famous",
    "forgotten",
    "crooked",
    "tiny",
    "enormous",
    "white",
    "black",
    "pale",
    "sudden",
    "early",
    "late",
    "clear",
    "wooden",
]
VERBS = [
    "watched",
    "followed",
    "found",
    "carried",
    "lost",
    "opened",
    "remembered",
    "touched",
    "painted",
    "crossed",
    "heard",
    "counted",
    "repaired",
    "loved",
    "feared",
    "guarded",
    "drew",
    "described",
    "reached",
    "left",
    "passed",
    "met",
    "kept",
    "hid",
    "cleaned",
    "lifted",
    "moved",
    "turned",
]
INTRANSITIVE = [
    "sang",
    "slept",
    "waited",
    "danced",
    "laughed",
    "vanished",
    "waited",
    "trembled",
    "shone",
    "listened",
    "dreamed",
    "wandered",
    "returned",
    "whispered",
    "rested",
    "fell",
    "rose",
    "smiled",
    "arrived",
    "shivered",
    "stopped",
    "turned",
    "hummed",
]
TIMES = """One morning|One evening|Long ago|In the spring|At night|After the rain|Before dawn|That day|Every autumn|Near the end of the year|Late in the
afternoon|On the third day|Years later|Soon|Then|At noon|Some time after that|In those days|On a Sunday""".replace(
    "\n", " "
).split("|")
FEELINGS = [
    "joy",
    "hope",
    "fear",
    "sorrow",
    "wonder",
    "calm",
    "pride",
    "doubt",
    "patience",
    "longing",
    "courage",
    "surprise",
    "relief",
]
SENTENCES = [
    "{T}, {the_n} {v} {the_n}.",
    "{T}, {a_n} {i} near {the_n}.",
    "{The_n} {v} {the_n} and {i}.",
    "{The_n} {i} {d}.",
    "{The_n} was {j} and {j}.",
    "There was {a_n} beside {the_n}.",
    "Nobody {v} {the_n} any more.",
    "{P} {v} {the_n} {d}.",
    "{P} {i}, and {the_n} {i} too.",
    "{T}, {P} {v} {a_n} under {the_n}.",
    "It was {a_j} {n}, full of {f}.",
    '"Where is {the_n}?" asked {P}.',
    '"I {v} {the_n} {d}," said {P}.',
    "{P} thought of {the_n} with {f}.",
    "Behind {the_n} {i} {a_n}.",
    "{The_n} {v} {P}, but {the_n} {i}.",
    "So {P} {v} {the_n} and went home.",
    "From {the_n} came the sound of {a_n}.",
    "When {the_n} {i}, {P} {v} {the_n}.",
    "{T} {the_n} {i}, and {P} was filled with {f}.",
    "{P} had {a_j} {n} and {a_n}.",
    "Only {the_n} {v} {the_n}.",
    "{The_n} and {the_n} {i} {d}.",
    "If {the_n} {i}, {P} said, {the_n} will be {j}.",
    "{P} {v} {the_n}, {v} {the_n} and {i} {d}.",
    "Everything was {j}: {the_n}, {the_n}, even {the_n}.",
    "They {v} {the_n} until {the_n} {i}.",
    "No one knew why {the_n} {i} {d}.",
    "{P} gave {the_n} to {P2}.",
    '"{F} is {a_j} {n}," {P2} said.',
    "{P2} and {P} {i} {d}.",
]
OPENINGS = [
    "Once there was {a_j} {n}{s}.",
    "There once lived {a_n}{s}.",
    "This is the story of {P} and {the_n}{s}.",
    "{T}, {P} came to {the_n}{s}.",
    "Nobody forgets {the_n}{s}.",
    "{P} lived close to {the_n}{s}.",
]
ENDINGS = [
    "And so {the_n} {i} {d}.",
    "That is how {P} {v} {the_n}.",
    "Since then, {the_n} has been {j}.",
    "{P} never {v} {the_n} again.",
    "In the end, {the_n} {i}.",
    "And {P} was {j} for ever.",
]
ASKED = [
    "Tell me a story about [the|a|] {t}",
    "Tell me a story about the {t}",
    "Tell me [a short|another|one more] story about [the|a] {t}",
    "Write [a story|a text|something|a few lines|a paragraph] about [the|a] {t}",
    "Describe [the|a] {t}",
    "Write a [short|long] story about [the|a] {t}",
    "[Can|Could] you [tell|write] [me|] a story about [the|a] {t}?",
    "I want [a story|to read] about [the|a] {t}",
    "Make up a story about [the|a] {t}",
    "Give me a [story|text|description] about [the|a] {t}",
    "Talk about [the|a] {t}",
    "Story about [the|a] {t}",
    "Please write about [the|a] {t}",
    "Tell a tale of [the|a] {t}",
    "Write me a poem about the {t}",
    "Entertain me with a story about the {t}",
    "Let me hear a story about the {t}",
    "Write three sentences about the {t}",
]
HELD_OUT_ASKED = [
    "Invent a tale about the {t}",
    "I would like to hear something about the {t}",
    "Compose a short text on the {t}",
    "Do you know a story about the {t}?",
]
FREE = [
    "Tell me a story",
    "Write a story",
    "Tell me something",
    "Write something",
    "Tell me a short story",
    "Write a [short|long] text",
    "Make up a story",
    "Another story please",
    "Entertain me",
    "Tell me a tale",
]


class _Slots(dict[str, str]):
    """Words drawn anew for each slot of a sentence."""

    def __init__(self, rng: random.Random, nouns: list[str], people: list[str], topic: str) -> None:
        super().__init__()
        self._rng, self._nouns, self._people, self._topic = rng, nouns, people, topic

    def __getitem__(self, slot: str) -> str:
        return self._word(slot[:1].lower() + slot[1:] if slot in {"The_n", "F"} else slot, slot)

    def _word(self, kind: str, slot: str) -> str:
        rng = self._rng
        noun = rng.choice(self._nouns)
        noun = f"{rng.choice(ADJECTIVES)} {noun}" if kind in {"the_n", "a_n"} and rng.random() < 0.5 else noun
        adjective = rng.choice(ADJECTIVES)
        text = {
            "n": noun,
            "the_n": f"the {noun}",
            "a_n": f"{_article(noun)} {noun}",
            "v": rng.choice(VERBS),
            "i": rng.choice(INTRANSITIVE),
            "j": adjective,
            "a_j": f"{_article(adjective)} {adjective}",
            "d": rng.choice(ADVERBS),
            "T": rng.choice(TIMES),
            "P": self._people[0],
            "P2": self._people[1],
            "f": rng.choice(FEELINGS),
            "s": ""
            if not self._topic
            else rng.choice((f" by the {self._topic}", f" of the {self._topic}", f" and the {self._topic}")),
        }[kind]
        return text[0].upper() + text[1:] if slot in {"The_n", "F"} else text


ADVERBS = [
    "slowly",
    "quietly",
    "again",
    "softly",
    "suddenly",
    "at last",
    "twice",
    "alone",
    "together",
    "for a while",
    "gladly",
    "all night",
    "every day",
    "once more",
    "without a word",
]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def story(rng: random.Random, topic: str, sentences: int) -> str:
    """A text of so many sentences about a topic."""
    known = TOPICS.get(topic) or TOPICS[rng.choice(list(TOPICS))]
    nouns = [*known.split(), topic]
    if rng.random() < 0.3:
        nouns += rng.choice(list(TOPICS.values())).split()
    people = [words.name(rng, held_out=False) if rng.random() < 0.5 else rng.choice(words.NAMES) for _ in range(2)]
    slots = _Slots(rng, nouns, people, topic)
    lines = [expand(rng, rng.choice(OPENINGS), slots)]
    lines += [expand(rng, rng.choice(SENTENCES), slots) for _ in range(sentences - 2)]
    lines.append(expand(rng, rng.choice(ENDINGS), slots))
    text = lines[0]
    for index, line in enumerate(lines[1:], 1):
        text += ("\n\n" if index % 6 == 0 and rng.random() < 0.5 else " ") + line
    return text


def exchange(rng: random.Random, held_out_phrasing: bool) -> Exchange:
    """A wish for a text, and the text."""
    topic = (
        rng.choice(list(TOPICS))
        if rng.random() < 0.8
        else rng.choice((rng.choice(words.THINGS), rng.choice(words.ANIMALS), words.made_up(rng)))
    )
    if not held_out_phrasing and rng.random() < 0.15:
        asked, topic = expand(rng, rng.choice(FREE), {}), rng.choice(list(TOPICS))
    else:
        asked = expand(rng, rng.choice(HELD_OUT_ASKED if held_out_phrasing else ASKED), {"t": topic})
    asked = " ".join(asked.split()) + rng.choice(("", ".", "."))
    asked = asked.replace("?.", "?")
    count = rng.choice((5, 7, 9, 12)) if "long" not in asked else rng.choice((14, 18))
    return Exchange("free text", [Said("user", asked), Said("assistant", story(rng, topic, count))])
