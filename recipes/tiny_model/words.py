"""Lists of values that go into phrasings, split into those trained on and those held out."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

NAMES = ["Ada", "Alan", "Alice", "Amir", "Amy", "Ana", "Anders", "Andrea", "Anna", "Anton", "Aria", "Astrid", "Bela", "Ben", "Bianca", "Bob", "Bruno", "Carl", "Carla", "Carmen", "Cesar", "Chen", "Chloe", "Clara", "Claude", "Daisy", "Dan", "David", "Diana", "Diego", "Dora", "Edgar", "Elena", "Eli", "Ella", "Emil", "Emma", "Erik", "Esther", "Eva", "Fatima", "Felix", "Finn", "Fiona", "Frank", "Freya", "George", "Gina", "Grace", "Greta", "Hana", "Hans", "Harry", "Hassan", "Hector", "Helen", "Henry", "Hugo", "Ida", "Igor", "Ines", "Irene", "Iris", "Isaac", "Ivan", "Jack", "Jan", "Jana", "Jane", "Jasmine", "Jean", "Jim", "Joan", "Joe", "John", "Jonas", "Jose", "Julia", "Kai", "Karen", "Karl", "Kate", "Ken", "Kim", "Klaus", "Lara", "Laura", "Lea", "Leo", "Lia", "Lily", "Linda", "Linus", "Lisa", "Liu", "Louis", "Lucas", "Lucy", "Luis", "Luna", "Maria", "Marie", "Mark", "Marta", "Max", "Maya", "Mei", "Mia", "Miguel", "Mike", "Mila", "Mina", "Mona", "Nadia", "Nick", "Nils", "Nina", "Noah", "Nora", "Olaf", "Olga", "Oliver", "Omar", "Oscar", "Otto", "Paul", "Pedro", "Peter", "Petra", "Pia", "Priya", "Rafael", "Raj", "Ravi", "Rita", "Robert", "Rosa", "Ruth", "Sam", "Sara", "Sasha", "Sean", "Selma", "Sofia", "Stefan", "Sven", "Tara", "Theo", "Tim", "Tina", "Tom", "Uma", "Ursula", "Vera", "Victor", "Wei", "Wendy", "Yara", "Yuki", "Zoe"]
HELD_OUT_NAMES = ["Agnes", "Boris", "Celine", "Dmitri", "Edith", "Farid", "Gloria", "Hilda", "Ismael", "Jorge", "Katrin", "Lorenzo", "Margot", "Nikolai", "Ophelia", "Pablo", "Quentin", "Renata", "Silvia", "Tobias", "Ulrich", "Valeria", "Walter", "Xenia", "Yusuf", "Zelda"]
SURNAMES = ["Smith", "Jones", "Brown", "Weber", "Klein", "Novak", "Rossi", "Silva", "Garcia", "Tanaka", "Kim", "Singh", "Khan", "Olsen", "Berg", "Moreau", "Petrov", "Lopez", "Young", "Hill", "Ward", "Fox", "Stone", "Lane", "Wood", "Reed", "Marsh", "Cole", "Hunt", "Shaw"]
CITIES = ["Paris", "Berlin", "Rome", "Madrid", "Lisbon", "Vienna", "Prague", "Oslo", "Cairo", "Lagos", "Lima", "Boston", "Denver", "Austin", "Dallas", "Miami", "Tokyo", "Osaka", "Delhi", "Mumbai", "Sydney", "Perth", "Dublin", "Zurich", "Geneva", "Milan", "Naples", "Porto", "Krakow", "Riga", "Tallinn", "Athens", "Bern", "Ghent", "Lyon", "Nice", "Kyoto", "Quito", "Hamburg", "Munich", "Leeds", "York", "Bath", "Cork", "Turin", "Malaga", "Seville", "Bergen", "Aarhus", "Graz"]
HELD_OUT_CITIES = ["Bremen", "Toulouse", "Valencia", "Utrecht", "Tampere", "Split", "Nagoya", "Medellin", "Calgary", "Adelaide", "Durban"]
COLORS = ["red", "blue", "green", "yellow", "orange", "purple", "black", "white", "pink", "brown", "grey", "gold", "silver", "teal"]
HELD_OUT_COLORS = ["violet", "crimson", "turquoise", "beige", "indigo", "maroon"]
FOODS = ["pizza", "pasta", "sushi", "soup", "bread", "cheese", "rice", "curry", "salad", "pancakes", "noodles", "tacos", "apples", "cherries", "chocolate", "lasagna", "falafel", "hummus", "ramen", "waffles", "porridge", "olives"]
HELD_OUT_FOODS = ["risotto", "dumplings", "mangoes", "goulash", "paella", "gnocchi"]
ANIMALS = ["cat", "dog", "horse", "parrot", "rabbit", "hamster", "turtle", "goldfish", "snake", "pony", "goat", "duck", "hen", "ferret", "lizard"]
JOBS = ["teacher", "doctor", "baker", "pilot", "farmer", "nurse", "painter", "writer", "lawyer", "cook", "driver", "engineer", "gardener", "plumber", "carpenter", "chemist", "singer", "librarian", "sailor", "mechanic"]
HELD_OUT_JOBS = ["dentist", "architect", "translator", "geologist", "florist", "electrician"]
HOBBIES = ["chess", "tennis", "painting", "sailing", "reading", "running", "cooking", "hiking", "dancing", "fishing", "swimming", "skiing", "gardening", "cycling", "yoga", "climbing", "knitting", "football"]
HELD_OUT_HOBBIES = ["archery", "pottery", "rowing", "fencing", "juggling", "origami"]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
THINGS = ["car", "bike", "boat", "book", "phone", "laptop", "house", "garden", "school", "team", "company", "project", "street", "printer", "guitar", "piano", "band", "shop", "office", "server", "robot", "plant"]

_ONSETS = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "cr", "dr", "fl", "gr", "kl", "pl", "pr", "sh", "sk", "st", "th", "tr"]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ia", "io", "oo"]
_CODAS = ["", "", "", "n", "r", "s", "l", "m", "k", "t", "x", "nd", "rt", "sk"]


def made_up(rng: random.Random) -> str:
    """A word that nobody knows, so that copying is learnt and not the list."""
    count = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)


def code(rng: random.Random) -> str:
    """A number or a mix of letters and digits, as in codes and identifiers."""
    kind = rng.randrange(5)
    if kind == 0:
        return digits(rng, rng.randint(2, 6))
    if kind == 1:
        return "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(2, 3))) + "-" + digits(rng, 3)
    if kind == 2:
        return "".join(rng.choice(string.ascii_lowercase + string.digits) for _ in range(rng.randint(4, 7)))
    if kind == 3:
        return made_up(rng) + digits(rng, rng.randint(1, 3))
    return rng.choice(string.ascii_uppercase) + digits(rng, rng.randint(1, 4))


def digits(rng: random.Random, count: int) -> str:
    """A whole number of `count` digits without a leading zero."""
    return str(rng.randint(10 ** (count - 1) if count > 1 else 0, 10**count - 1))


def name(rng: random.Random, held_out: bool) -> str:
    """A first name: listed or made up; where values are held out, one never trained on."""
    if held_out:
        return rng.choice(HELD_OUT_NAMES)
    return rng.choice(NAMES) if rng.random() < 0.5 else made_up(rng).capitalize()


def pick(rng: random.Random, known: list[str], unknown: list[str], held_out: bool) -> str:
    """A word of a list, or its held-out half; now and then a made-up one in training."""
    if held_out:
        return rng.choice(unknown)
    return rng.choice(known) if rng.random() < 0.6 else made_up(rng)
