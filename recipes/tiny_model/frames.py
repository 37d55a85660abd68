"""Noise around a question: what people say before and after it, and words in it that do not matter.

With it the model learns which words decide (an expression, a place and a word for time, two units, a column) and that
the rest may be anything, instead of learning sentences by heart. Trained only; held-out openers and closers stay apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tiny_model import lexicon, words

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

BEFORE = [
    "[My|Our] {n} and [my|our] {n} are {j}. ",
    "[When|While|Once|After|Before] [I|we|you] {v} [the|a|my] {n}, ",
    "[Dear|Hello|Hi|Good evening] {name}, ",
    "{name} [asks|needs|wants|says|wonders|writes|is waiting][: |, ]",
    "[The|A|This] {j} [one|question|task|thing|matter][: |. |, ]",
    "[To|In order to] {v} [the|a|my] {n}, ",
    "[Without|With|Besides|About|Beyond] [the|a|my] {n}[, |: ]",
    "[I|We] [do not|cannot|did not|would not|could not] {v}[. |, so |: ]",
    "[Step|Part|Point|Number|Item] [one|two|three][: |. ]",
    "[Back|Next|Over|On] to [the|our] {n}[: |. ]",
    "[Today|Tonight|Yesterday|Tomorrow] I {v} [the|a] {n}[. |, ]",
    "[Hi|Hello|Hey|Good morning|Good evening|Dear friend][,|!|.| {name},| moltbot,] ",
    "[Sorry|Excuse me|Pardon me|Listen|Look|Right|Fine|Alright|Yes|No|Hm|Oh|Ah], ",
    "[I have|Here comes|This is|There is] [a|another|one more|my next|an easy|a hard|a short] [question|request|one|problem|thing]: ",
    "[My|Our] {n} [asks|wants to know|needs this|would like to know][: |, ]",
    "[For|In|During|Before|After] [my|the|our|this] {n}[, |: ]",
    "[Because|Since|As] I am {j}, ",
    "[I am|We are] {j}[. |, so |: ]",
    "The {n} is {j}. ",
    "[It is|This is] {j}[, but |. |: ]",
    "[Let us|I want to|I need to|I have to|I will] {v} [the|my|a] {n}. ",
    "[First|Second|Third|Then|Finally|Meanwhile|Anyway|However|Therefore|Besides|Actually|Honestly|Just][, | ]",
    "[One|Two|Another] {j} [thing|question|point]: ",
    "[I wonder|I wonder about this|I want to know|I must know|I should know|Help me with this|Be quick|Be kind|Take your time]: ",
    "[Can|Could|Would|Will] you [help|assist|answer|be so kind]? ",
    "{N}: ",
    "{V} it: ",
    "{D}, ",
    "{S}[:|,] ",
    "{S} {s}[:|,|.] ",
    "{S} {s} {s}[:|,|.] ",
    "{S} {s} {s} {s}[:|,|.] ",
    "{S} the {s} {n}[:|,|.] ",
]
AFTER = [
    " [if it helps|if nobody minds|if time allows|when you find the time|as quickly as possible|before lunch|by tonight|at last]",
    " [without|with|like|around|between|over|behind|despite] [the|a|my|our] {n}",
    " [because|since|while|although|until|unless] [the|my] {n} is {j}",
    " [so|so that] [I|we|they] can {v} [the|a|my] {n}",
    " and [tell|show|help|thank] [me|us|{name}]",
    ", [could you|can we|may I|must you|shall we|do you hear|I beg you|I hope|I said|they say]",
    ", {j} {n}",
    " {j}",
    " {n}",
    " {d}",
    ", {d}",
    ", {name}",
    ", my friend",
    ", my {n} asks",
    " [for|before|after|during|because of] [my|the|our] {n}",
    " in a {j} way",
    " [if you can|if possible|if that is fine|when you are ready|as soon as you can|without delay|this minute]",
    ", [if you can|if possible|if that is fine|when you are ready|as soon as you can|will you|can you|okay|right|yes]",
    " and {v} it",
    " and be {j}",
    ", it is {j}",
    " [today|tonight|at once|again|this time|once more]",
    " {s}",
    " {s} {s}",
    " {s} {s} {s}",
    ", {s}",
    ", {s} {s}",
    ", {s} {s} {s}",
]
BEFORE_SHARE, AFTER_SHARE, VERB_SHARE, INSERT_SHARE, LOOSE_SHARE = 0.35, 0.35, 0.25, 0.2, 0.16
OTHER_SHARE = 0.25
"""Questions in which some words between the parts are other ones, where the parts are known whatever stands there."""
_LINKS = """a an the this that my our your in of for with where whose as is are was under on by from at about to has have had
holds into within which who what some any all there it and or if so one against per called said""".split()
# Words that are a unit, a number or part of a sum do not stray beside numbers, nor those that columns are named by.
_NO_STRAYS = frozenset(
    """in plus per over by to one less double half minus times minute second add divide multiply subtract share name phone
    state type customer number product room level year date code owner""".split()
)
_STRAYING = [word for word in lexicon.FUNCTION_WORDS if word not in _NO_STRAYS]
_OTHERS = [word for word in lexicon.OTHER_WORDS if word not in {*_NO_STRAYS, *lexicon.NOUNS}]
# A first word that another verb may stand for: the rest of the sentence says what is wanted.
OPEN_VERBS = frozenset(
    """Calculate Compute Evaluate Solve Find Convert Change Turn Express Get Search Query Check Show List Fetch Retrieve
Look Select Simplify Run Try Do Make Give""".split()
)


def noise(rng: random.Random, phrasing: str, expand: Callable[..., str]) -> str:
    """A frame with words drawn for its slots, for each `{s}` another."""
    return expand(
        rng,
        re.sub(r"\{s\}", lambda _: stray(rng), phrasing),
        {
            "n": rng.choice(lexicon.NOUNS),
            "N": rng.choice(lexicon.NOUNS).capitalize(),
            "v": rng.choice(lexicon.VERBS),
            "V": rng.choice(lexicon.VERBS).capitalize(),
            "j": rng.choice(lexicon.ADJECTIVES),
            "d": rng.choice(lexicon.ADVERBS),
            "D": rng.choice(lexicon.ADVERBS).capitalize(),
            "made": words.made_up(rng),
            "name": words.name(rng, held_out=False),
            "S": stray(rng).capitalize(),
        },
    )


def stray(rng: random.Random) -> str:
    """A word that may stand anywhere and means nothing there."""
    return rng.choice(_STRAYING if rng.random() < 0.6 else _OTHERS)


def loose(rng: random.Random, parts: list[str], ends: tuple[str, ...] = ("", "?", "?", ".", ".", " please")) -> str:
    """The parts among words that hang together loosely: what they are is told by themselves and by the offered tools."""
    words: list[str] = []
    for place in range(len(parts) + 1):
        most = 4 if place == 0 else 3
        count = rng.randint(0 if place in (0, len(parts)) else 1, most)
        words += [rng.choice(_LINKS) if rng.random() < 0.4 else stray(rng) for _ in range(count)]
        words += parts[place : place + 1]
    text = " ".join(words) + rng.choice(ends)
    return text if words[0] in parts else text[0].upper() + text[1:]


def other_words(rng: random.Random, phrasing: str, *, free: bool = False) -> str:
    """The phrasing with another verb at its beginning or a word more inside, now and then; slots stay where they are.

    Where it is `free`, any of the words between the slots may be others too.
    """
    if free and rng.random() < OTHER_SHARE:
        own = re.split(r"(\{\w+\}|\w+)", phrasing)
        places = [place for place in range(1, len(own), 2) if own[place][0] != "{"]
        for place in rng.sample(places, min(len(places), rng.randint(1, 3))):
            own[place] = stray(rng)
        phrasing = "".join(own)
        return phrasing if phrasing[0] == "{" else phrasing[0].upper() + phrasing[1:]
    first, space, rest = phrasing.partition(" ")
    if first in OPEN_VERBS and "{" in rest and rng.random() < VERB_SHARE:
        other = rng.choice(lexicon.VERBS) if rng.random() < 0.7 else words.made_up(rng)
        phrasing = other.capitalize() + space + rest
    if rng.random() < INSERT_SHARE:
        spaces = [match.start() for match in re.finditer(" ", phrasing) if phrasing[match.start() - 1] != "}"]
        spaces = [place for place in spaces if phrasing[place + 1] != "{"]
        if spaces:
            place = rng.choice(spaces)
            more = rng.choice((lexicon.ADVERBS, lexicon.ADJECTIVES, lexicon.FRAMES))
            phrasing = f"{phrasing[:place]} {rng.choice(more)}{phrasing[place:]}"
    return phrasing
