"""Exercises of closed form, made by rule: units, tenses, voices, spelling, opposites, forms.

A small model meets each skill a few dozen times in the instructions at hand, too seldom to learn
it. Here are sentences of 174 verbs and of nouns that stand in a text, so that it has to learn how a
sentence is turned and what is copied, and cannot know it by heart. What a question that is held out
asks about (a word, a quantity, a sentence) is asked about in no exercise.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zoo.conversation import Messages


class Drill(NamedTuple):
    """An exercise: `asked` is the word, quantity or sentence that `question` is about."""

    asked: str
    question: str
    answer: str


class Words(NamedTuple):
    """What exercises are about besides what stands here: nouns, and words to be spelt."""

    nouns: Sequence[str]
    spelt: Sequence[str]


class Subject(NamedTuple):
    """Who does something: as the subject of a sentence, behind "by", and how many."""

    name: str
    by: str
    person: str  # "I", "one" or "many"


class Verb(NamedTuple):
    """A verb's forms."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


PRONOUNS = [
    Subject("I", "me", "I"),
    *(Subject(*pair, "one") for pair in (("He", "him"), ("She", "her"))),
    *(Subject(*pair, "many") for pair in (("We", "us"), ("You", "you"), ("They", "them"))),
]
NAMES = {"Anna": "she", "David": "he", "Emma": "she", "John": "he", "Maria": "she", "Tom": "he"}
SPEAKERS = [
    ("He", "he"),
    ("She", "she"),
    ("My brother", "he"),
    ("The woman", "she"),
    *NAMES.items(),
]
PERSONS = [
    *(
        Subject(f"The {name}", f"the {name}", "one")
        for name in """artist author boy chef company doctor driver engineer farmer girl king
        manager neighbor nurse officer president student teacher team woman writer""".split()
    ),
    *(
        Subject(f"The {name}", f"the {name}", "many")
        for name in "children farmers neighbors players scientists soldiers students".split()
    ),
    *(Subject(name, name, "one") for name in NAMES),
    Subject("My brother", "my brother", "one"),
    Subject("My parents", "my parents", "many"),
    Subject("Her friend", "her friend", "one"),
]
# a verb's forms, and what it is done to
ACTIONS: list[tuple[Verb, list[str]]] = [
    (Verb(*line.partition(":")[0].split()), line.partition(":")[2].strip().split(", "))
    for line in """\
bake bakes baked baked baking: a cake, the bread, some cookies
break breaks broke broken breaking: the window, a glass, the old chair
bring brings brought brought bringing: a gift, the books, some food
build builds built built building: a house, the wall, a small boat
buy buys bought bought buying: a car, the tickets, some milk
call calls called called calling: the police, a taxi, the guests
carry carries carried carried carrying: the bags, a heavy box, the water
catch catches caught caught catching: the ball, a big fish, the train
choose chooses chose chosen choosing: a color, the winner, the best seats
clean cleans cleaned cleaned cleaning: the room, the kitchen, the windows
close closes closed closed closing: the door, the shop, the gate
collect collects collected collected collecting: stamps, the papers, old coins
cook cooks cooked cooked cooking: dinner, the rice, a warm soup
cut cuts cut cut cutting: the grass, the paper, an apple
discover discovers discovered discovered discovering: a new island, the truth, the cave
draw draws drew drawn drawing: a picture, the map, two circles
drink drinks drank drunk drinking: the juice, some tea, the milk
drive drives drove driven driving: the bus, a red truck, the car
eat eats ate eaten eating: breakfast, the pizza, an orange
explain explains explained explained explaining: the rules, the problem, the idea
find finds found found finding: the keys, a solution, the lost dog
fix fixes fixed fixed fixing: the roof, the bike, a broken lamp
forget forgets forgot forgotten forgetting: the password, the name, the meeting
help helps helped helped helping: the old man, the new students, a friend
hide hides hid hidden hiding: the money, the letter, the presents
invite invites invited invited inviting: the guests, the whole class, a singer
keep keeps kept kept keeping: a secret, the change, the photos
learn learns learned learned learning: a language, the poem, the lesson
make makes made made making: a plan, the beds, some coffee
open opens opened opened opening: the box, the letter, a bank account
paint paints painted painted painting: the fence, a portrait, the ceiling
plant plants planted planted planting: a tree, some flowers, the seeds
play plays played played playing: the piano, chess, a new game
read reads read read reading: the newspaper, a story, the report
sell sells sold sold selling: the farm, fresh fruit, the old car
send sends sent sent sending: an email, the package, a postcard
sing sings sang sung singing: a song, the anthem, a lullaby
steal steals stole stolen stealing: the jewels, a bicycle, the painting
study studies studied studied studying: history, the stars, the plans
teach teaches taught taught teaching: a course, the class, music
throw throws threw thrown throwing: a stone, the ball, the rope
visit visits visited visited visiting: the museum, the city, a farm
wash washes washed washed washing: the dishes, the car, the clothes
watch watches watched watched watching: a movie, the game, the birds
wear wears wore worn wearing: a hat, the red dress, new shoes
win wins won won winning: the race, a prize, the match
write writes wrote written writing: a letter, the book, a short poem""".splitlines()
]
# regular, of anything; forms by rule
REGULAR = """\
accept admire answer approve arrange attack attend avoid borrow cause celebrate change check climb
complete consider count cover create cross decorate defend delay deliver describe design destroy
develop display divide earn elect enjoy enter examine expect explore film finish follow gather guard
guide handle hate hunt ignore improve include inspect introduce join judge kick lift limit like list
load lock love mark measure mention miss move need notice offer order own pack pass perform pick
place praise prepare present produce promise protect publish pull push raise reach receive recommend
record reduce refuse remember remove rent repair replace report request rescue return review save
search select serve share sign solve start store support surprise test thank touch train treat trust
turn use value want warn waste welcome wish"""
MANY = frozenset(
    """bags beds birds books clothes coins cookies circles dishes flowers guests jewels keys papers
    photos plans police presents rules seats seeds shoes stamps stars students tickets
    windows""".split()
)
OPPOSITES = [
    tuple(pair.split("-"))
    for pair in """\
above-below absent-present accept-refuse add-subtract alive-dead always-never appear-disappear
arrive-depart asleep-awake attack-defend backward-forward beautiful-ugly best-worst better-worse
bitter-sweet bold-timid borrow-lend bottom-top boring-interesting build-destroy buy-sell
calm-excited careful-careless cheap-expensive cheerful-gloomy common-rare cool-warm
create-destroy cruel-kind curved-straight danger-safety day-night dead-alive deep-shallow
dirty-clean dry-wet early-late east-west empty-full enemy-friend enter-exit even-odd evil-good
fail-succeed false-true far-near fat-thin few-many final-first first-last float-sink follow-lead
foolish-wise forget-remember freeze-melt frequent-rare front-back future-past gather-scatter
gentle-rough give-take guilty-innocent hard-easy hate-love healthy-sick heaven-hell here-there
hero-coward hide-show hire-fire honest-dishonest hope-despair humble-proud import-export
inside-outside join-separate laugh-cry left-right less-more light-dark long-short loose-tight
lose-win loud-quiet low-high major-minor married-single maximum-minimum modern-ancient
narrow-wide natural-artificial new-old north-south open-closed optimist-pessimist over-under
peace-war permanent-temporary polite-rude poor-rich positive-negative possible-impossible
private-public public-private pull-push question-answer quick-slow raise-lower real-fake
regular-irregular right-wrong rise-fall safe-dangerous same-different sad-happy senior-junior
simple-complex small-large smooth-rough sour-sweet start-stop stop-go strong-weak sunny-cloudy
sunrise-sunset tall-short teach-learn thick-thin top-bottom ugly-beautiful up-down
useful-useless vacant-occupied victory-defeat visible-invisible wide-narrow win-lose
wise-foolish with-without work-play worse-better yes-no young-old""".split()
]
PLURALS = [
    tuple(pair.split("-"))
    for pair in """\
baby-babies bench-benches bird-birds box-boxes boy-boys bus-buses car-cars cat-cats chair-chairs
church-churches city-cities class-classes country-countries day-days dish-dishes dog-dogs
family-families farm-farms flower-flowers foot-feet fox-foxes friend-friends glass-glasses
half-halves hero-heroes house-houses key-keys knife-knives lady-ladies leaf-leaves life-lives
man-men monkey-monkeys ox-oxen party-parties potato-potatoes river-rivers school-schools
shelf-shelves star-stars story-stories table-tables teacher-teachers thief-thieves
tomato-tomatoes tooth-teeth toy-toys tree-trees watch-watches wife-wives window-windows
wolf-wolves woman-women""".split()
]
DEGREES = [
    tuple(line.split("-"))
    for line in """\
bright-brighter-brightest busy-busier-busiest cheap-cheaper-cheapest clean-cleaner-cleanest
cold-colder-coldest dark-darker-darkest deep-deeper-deepest early-earlier-earliest
easy-easier-easiest fast-faster-fastest funny-funnier-funniest happy-happier-happiest
hard-harder-hardest heavy-heavier-heaviest high-higher-highest kind-kinder-kindest
large-larger-largest late-later-latest little-less-least long-longer-longest loud-louder-loudest
low-lower-lowest many-more-most near-nearer-nearest new-newer-newest nice-nicer-nicest
old-older-oldest poor-poorer-poorest quick-quicker-quickest rich-richer-richest
sad-sadder-saddest short-shorter-shortest slow-slower-slowest small-smaller-smallest
strong-stronger-strongest tall-taller-tallest thin-thinner-thinnest warm-warmer-warmest
wet-wetter-wettest wide-wider-widest wise-wiser-wisest young-younger-youngest""".split()
]
# often misspelt
SPELLED = """\
absence accident achieve across address again although always amazing animal apparent argument
athlete author balance bargain beautiful because believe bicycle breakfast brilliant business
calendar careful ceiling celebrate center certain character children chocolate climate college
column comfortable committee complete concert conscious country courage cousin creature curious
daughter decide definite delicious describe desert different difficult disappear discover
disease dollar effort eight embarrass engine enough entrance environment equipment especially
evening example excellent exercise experience explain familiar famous favorite field finally
foreign forest forty friendly garden general government grammar grateful guarantee guard guess
harbor height hospital hundred hungry imagine important independent interest island jealous
journey judge kitchen knowledge language laugh library listen machine manager marriage maximum
measure medicine memory message million minute mirror mountain muscle music mystery natural
neighbor nervous nineteen ninth noise occasion ocean official opinion opposite orange ordinary
parallel patient peaceful people perfect perhaps picture pleasant possible potato practice
prepare president privilege probably problem promise purpose quarter question quiet really
reason receipt remember repeat restaurant rhythm science scissors secret separate sincerely
soldier special stomach strange strength student success sugar summer surprise teacher
temperature terrible thought through together tomato tomorrow tongue trouble truly umbrella
uncle until useful usually vacation valley vegetable village visitor weather weird welcome
window winter wonderful writing yellow yesterday""".split()
UNITS = [
    ("kilometers", "meters", 1000),
    ("meters", "centimeters", 100),
    ("meters", "millimeters", 1000),
    ("centimeters", "millimeters", 10),
    ("liters", "milliliters", 1000),
    ("kilograms", "grams", 1000),
    ("grams", "milligrams", 1000),
    ("tons", "kilograms", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
]
BESIDE = ["", "", "", " every day", " at home", " in the morning", " with a friend", " on Sundays"]
OFTEN, NOUN = 5, 0.4  # times that a noun stands in a text; how much of them at a phrase's end
TENSES = """past present-perfect past-perfect future future-perfect present-continuous
past-continuous future-continuous""".split()


def drills(count: int, held: Sequence[str], text: str = "", *, seed: int = 0) -> list[Messages]:
    """Exercises, none twice, as conversations of a question and its answer.

    Args:
        count: how many.
        held: questions that are held out. None of them is asked, nor anything about a word, a
            quantity or a sentence that stands in one.
        text: whose nouns and words they are about.
        seed: of what is drawn.
    """
    rng, taken = random.Random(seed), words_of(text)
    out = plain(" ".join(held))
    found: dict[str, str] = {}
    while len(found) < count:
        drill = rng.choice(KINDS)(rng, taken)
        if plain(drill.asked) not in out:
            found.setdefault(drill.question, drill.answer)
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in found.items()
    ]


def words_of(text: str) -> Words:
    """Nouns: what "the" stands before and a preposition, a verb or a stop behind; often enough.

    And words of five letters or more. Plurals in -s are left out.
    """
    seen = Counter(re.findall(r"\bthe ([a-z]{3,}[a-rt-z])(?= )", text))
    last = Counter(re.findall(r"\bthe ([a-z]{3,}[a-rt-z])(?= (?:of|was|is|in|and|to|,|\.) )", text))
    nouns = [word for word, count in last.items() if count >= OFTEN and count > NOUN * seen[word]]
    spelt = Counter(re.findall(r"\b[a-z]{5,}\b", text))
    return Words(nouns, [word for word, count in spelt.items() if count >= 6 * OFTEN])


def regular(base: str) -> Verb:
    """The forms of a regular verb."""
    stem = base.removesuffix("e")
    third = f"{base}es" if base.endswith(("s", "sh", "ch", "x")) else f"{base}s"
    return Verb(base, third, f"{stem}ed", f"{stem}ed", f"{stem}ing")


def plain(text: str) -> str:
    """A text's words in lower case, a space before and behind each."""
    return " ".join(["", *re.findall(r"\w+", text.lower()), ""])


def conversion(rng: random.Random, words: Words) -> Drill:
    """A quantity in another unit, from the larger to the smaller or the other way."""
    large, small, factor = rng.choice(UNITS)
    number = rng.choice([rng.randint(1, 20), 5 * rng.randint(1, 20), 50 * rng.randint(1, 20)])
    if rng.random() < 0.5:
        given, result = quantity(number, large), quantity(number * factor, small)
        target = small
    else:
        # what decimals write in full: 0.4 and 2.5, not a third of a day
        tenths = number if factor % 10 else number / 10
        given, result = quantity(tenths * factor, small), quantity(tenths, large)
        target = large
    asked = f"{given} to {target}"
    return Drill(asked, f"Convert {asked}.", f"{given} is {result}.")


def quantity(number: float, unit: str) -> str:
    """A number and its unit, of one alone without its ending."""
    one = {"feet": "foot", "inches": "inch"}
    if number == 1:
        unit = one.get(unit, unit[:-1])
    return f"{number:.10g} {unit}" if isinstance(number, float) else f"{number} {unit}"


def temperature(rng: random.Random, words: Words) -> Drill:
    """Degrees, of Celsius in Fahrenheit or Kelvin."""
    degrees = 5 * rng.randint(-8, 60)
    given = f"{degrees} degrees Celsius"
    scale, result = rng.choice(
        [
            ("Fahrenheit", f"{degrees * 9 // 5 + 32} degrees Fahrenheit"),
            ("Kelvin", f"{degrees + 273}.15 Kelvin"),
        ]
    )
    question = f"Convert the temperature from Celsius to {scale}.\n\n{given}"
    return Drill(given, question, f"{given} is {result}.")


def power(rng: random.Random, words: Words) -> Drill:
    """A square, a cube or the root of one."""
    n = rng.randint(2, 30)
    what, of, result = rng.choice(
        [("square", n, n * n), ("square root", n * n, n), ("cube", n, n**3), ("cube root", n**3, n)]
    )
    asked = f"{what} of {of}"
    return Drill(asked, f"What is the {asked}?", f"The {asked} is {result}.")


def tense(rng: random.Random, words: Words) -> Drill:
    """A sentence of the present in another tense."""
    subject, verb, what = sentence(rng, words)
    what += rng.choice(BESIDE)
    given, wanted = said(subject, verb, what, "present"), rng.choice(TENSES)
    name = wanted.replace("-", " ")
    question = rng.choice(
        [
            f"Change the following sentence to {name} tense.",
            f"Change this sentence into the {name} tense.",
            f"Rewrite the sentence in {name} tense.",
            f"Rewrite the following sentence in the {name} tense.",
            f"Convert the sentence to {name} tense.",
        ]
    )
    return Drill(given, f"{question}\n\n{given}", said(subject, verb, what, wanted))


def voice(rng: random.Random, words: Words) -> Drill:
    """A sentence in the passive, or back in the active voice."""
    subject, verb, what = sentence(rng, words)
    when = rng.choice(["present", "past", "future", "present-perfect"])
    active, passive = said(subject, verb, what, when), suffered(subject, verb, what, when)
    if rng.random() < 0.5:
        given, answer = active, passive
        question = rng.choice(
            [
                "Convert the given sentence into passive voice.",
                "Convert this sentence to passive voice",
                "Rewrite the following sentence using passive voice.",
                "Rewrite this English sentence into passive voice.",
                "Change the sentence from active voice to passive voice.",
                "Transform the following sentence into the passive voice.",
            ]
        )
    else:
        given, answer = passive, active
        question = rng.choice(
            [
                "Convert the given sentence into active voice.",
                "Rewrite the following sentence using the active voice.",
                "Re-word this sentence using an active voice.",
                "Rewrite this sentence to eliminate the passive voice.",
                "Edit the following sentence to remove all passive voice.",
            ]
        )
    return Drill(given, f"{question}\n\n{given}", answer)


def turned(rng: random.Random, words: Words) -> Drill:
    """A statement as a question or denied."""
    subject, verb, what = sentence(rng, words)
    what += rng.choice(BESIDE)
    when = rng.choice(["present", "past", "future", "present-perfect", "present-continuous"])
    given = said(subject, verb, what, when)
    auxiliary, rest = parts(subject, verb, when)
    name = lowered(subject.name)
    if rng.random() < 0.5:
        answer = f"{auxiliary.capitalize()} {name} {rest} {what}?"
        question = rng.choice(
            [
                "Convert the following statement into a question.",
                "Transform the statement into a question.",
                "Convert this declarative sentence into an interrogative sentence.",
            ]
        )
    else:
        answer = f"{subject.name} {auxiliary} not {rest} {what}."
        question = rng.choice(
            [
                "Convert the sentence into a negative statement.",
                "Rewrite the sentence so that it is negative.",
            ]
        )
    return Drill(given, f"{question}\n\n{given}", answer)


def agreement(rng: random.Random, words: Words) -> Drill:
    """A sentence whose verb does not go with its subject, mended; one in five is right already."""
    subject, verb, what = sentence(rng, words)
    what += rng.choice(BESIDE)
    when = rng.choice(["present", "past-continuous", "present-continuous", "present-perfect"])
    right = said(subject, verb, what, when)
    number = "many" if subject.person == "one" else "one"
    wrong = said(subject._replace(person=number), verb, what, when)
    given = right if rng.random() < 0.2 else wrong
    question = rng.choice(
        [
            "Edit the following sentence for grammar.",
            "Edit the following sentence to correct any grammar errors.",
            "Edit the given sentence to make it grammatically correct.",
            "Fix the following grammar mistake.",
            "Edit the sentence.",
        ]
    )
    return Drill(given, f"{question}\n\n{given}", right)


def reported(rng: random.Random, words: Words) -> Drill:
    """What somebody said, in indirect speech."""
    name, pronoun = rng.choice(SPEAKERS)
    _, verb, what = sentence(rng, words)
    feeling = rng.choice("busy cold happy hungry late lost ready sad sick sorry thirsty".split())
    claim, told = rng.choice(
        [
            (f"I am {feeling}", f"was {feeling}"),
            (f"I am {verb.gerund} {what}", f"was {verb.gerund} {what}"),
            (f"I have {verb.participle} {what}", f"had {verb.participle} {what}"),
            (f"I will {verb.base} {what}", f"would {verb.base} {what}"),
        ]
    )
    question = rng.choice(
        [
            "Given a sentence, convert it into indirect speech.",
            "Convert the sentence into reported speech.",
            "Rewrite the sentence in indirect speech.",
        ]
    )
    given = f"{name} said, '{claim}.'"
    return Drill(claim, f"{question}\n\n{given}", f"{name} said that {pronoun} {told}.")


def spelling(rng: random.Random, words: Words) -> Drill:
    """A word with a letter too many, too few, or two that changed places."""
    word = rng.choice(rng.choice([SPELLED, words.spelt or SPELLED]))
    wrong = misspelt(word, rng)
    if rng.random() < 0.5:
        frame = rng.choice(
            ["I like the word {} very much.", "She wrote {} on the board.", "He said {} twice.",
             "They read about {} today.", "We talked about {} all day.", "It was about {}."]
        )  # fmt: skip
        question = rng.choice(
            [
                "Correct any spelling mistakes in the given sentence.",
                "Edit the sentence to correct the spelling error.",
            ]
        )
        return Drill(word, f"{question}\n\n{frame.format(wrong)}", frame.format(word))
    question, answer = rng.choice(
        [
            (
                f"Identify the correct spelling of the following word.\n\n{wrong}",
                f"The correct spelling is '{word}'.",
            ),
            (
                f"Evaluate the following phrase by transforming it into the spelling given.\n\n"
                f"{wrong} --> {word}",
                f'The spelling of the given phrase "{wrong}" is incorrect, '
                f'the correct spelling is "{word}".',
            ),
        ]
    )
    return Drill(word, question, answer)


def misspelt(word: str, rng: random.Random) -> str:
    """A word with one mistake behind its first letter."""
    while True:
        at = rng.randrange(1, len(word))
        wrong = rng.choice(
            [
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
                word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
            ]
        )
        if wrong != word:
            return wrong


def opposite(rng: random.Random, words: Words) -> Drill:
    """A word that means the opposite."""
    word, other = rng.choice(OPPOSITES)
    what, of = rng.choice([("opposite", "of"), ("antonym", "of"), ("antonym", "for")])
    if what == "opposite":
        question, answer = f"What is the opposite of '{word}'?", f"The opposite of '{word}'"
    else:
        question = rng.choice(
            [f"What is an antonym {of} '{word}'?", f"Name an antonym {of} '{word}'."]
        )
        answer = f"An antonym {of} '{word}'"
    return Drill(word, question, f"{answer} is '{other}'.")


def form(rng: random.Random, words: Words) -> Drill:
    """A form of a verb, a noun or an adjective."""
    verb, _ = rng.choice(ACTIONS)
    noun, many = rng.choice(PLURALS)
    plain, more, most = rng.choice(DEGREES)
    name, word, result = rng.choice(
        [
            ("past tense", verb.base, verb.past),
            ("past tense", verb.base, verb.past),
            ("past participle", verb.base, verb.participle),
            ("gerund form", verb.base, verb.gerund),
            ("plural form", noun, many),
            ("comparative form", plain, more),
            ("superlative form", plain, most),
        ]
    )
    return Drill(
        word,
        f"What is the {name} of '{word}'?",
        f"The {name} of '{word}' is '{result}'.",
    )


def sentence(rng: random.Random, words: Words) -> tuple[Subject, Verb, str]:
    """Who does what to what."""
    verb, objects = rng.choice(ACTIONS)
    subject, what = rng.choice(rng.choice([PRONOUNS, PERSONS])), rng.choice(objects)
    if words.nouns and rng.random() < 0.7:
        verb = rng.choice([verb, regular(rng.choice(REGULAR.split()))])
        article = rng.choice(["the", "the", "his", "her", "my", "their", "this"])
        what = f"{article} {rng.choice(words.nouns)}"
        if rng.random() < 0.5:
            noun = rng.choice(words.nouns)
            subject = Subject(f"The {noun}", f"the {noun}", "one")
    return subject, verb, what


def said(subject: Subject, verb: Verb, what: str, when: str) -> str:
    """A sentence in the active voice."""
    if when in ("present", "past"):
        third = when == "present" and subject.person == "one"
        word = verb.past if when == "past" else verb.third if third else verb.base
        return f"{subject.name} {word} {what}."
    auxiliary, rest = parts(subject, verb, when)
    return f"{subject.name} {auxiliary} {rest} {what}."


def suffered(subject: Subject, verb: Verb, what: str, when: str) -> str:
    """The same sentence in the passive voice."""
    many = what.split()[-1] in MANY
    be = {
        "present": "are" if many else "is",
        "past": "were" if many else "was",
        "future": "will be",
        "present-perfect": f"{'have' if many else 'has'} been",
    }[when]
    return f"{what[0].upper()}{what[1:]} {be} {verb.participle} by {subject.by}."


def parts(subject: Subject, verb: Verb, when: str) -> tuple[str, str]:
    """A tense as its auxiliary, which a question begins with, and what is behind it."""
    person = subject.person
    return {
        "present": ("does" if person == "one" else "do", verb.base),
        "past": ("did", verb.base),
        "future": ("will", verb.base),
        "present-perfect": ("has" if person == "one" else "have", verb.participle),
        "past-perfect": ("had", verb.participle),
        "future-perfect": ("will", f"have {verb.participle}"),
        "present-continuous": ({"I": "am", "one": "is", "many": "are"}[person], verb.gerund),
        "past-continuous": ("were" if person == "many" else "was", verb.gerund),
        "future-continuous": ("will", f"be {verb.gerund}"),
    }[when]


def lowered(name: str) -> str:
    """A subject within a sentence: "I" and names keep their capital."""
    return name if name == "I" or name in NAMES else name[0].lower() + name[1:]


KINDS: list[Callable[[random.Random, Words], Drill]] = [
    conversion, conversion, temperature, power, tense, tense, voice, voice, turned, agreement,
    reported, spelling, opposite, form,
]  # fmt: skip
