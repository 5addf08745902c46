"""Words and sentence frames that the tasks are made of.

Names are first names that, capitalised, are rarely anything else, so that a tokenizer's single token for one is the
name. Every object starts with a consonant sound ("a {object}") and can be given, sold, sent and carried; every
place is a building that can be visited, opened and cleaned. So every combination reads as plain English.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _words(
    """
    Aaron Adam Adrian Alan Albert Alex Alexander Alexandra Alfred Alice Alicia Alison Allen Amanda Amy Andrea Andrew
    Angela Ann Anna Anne Annie Anthony Arnold Arthur Barbara Ben Benjamin Bernard Beth Betty Bob Bobby Brandon Brenda
    Brian Bruce Carl Carlos Carol Caroline Catherine Charles Charlie Chris Christian Christina Christine Christopher
    Claire Clara Colin Connor Craig Cynthia Daniel Danny David Deborah Debra Dennis Derek Diana Diane Donald
    Donna Dorothy Doug Douglas Dylan Ed Eddie Edgar Edith Edward Elena Eleanor Elizabeth Ellen Emily Emma Eric Erin
    Ethan Eugene Eva Evan Fiona Frances Francis Frank Fred Frederick Gary George Gerald Gilbert Glenn Gloria Gordon
    Greg Gregory Hannah Harold Harriet Harry Harvey Heather Helen Henry Herbert Howard Hugh Ian Isaac Isabella Jack
    Jacob Jake James Jamie Jane Janet Jason Jeff Jeffrey Jennifer Jenny Jeremy Jerry Jesse Jessica Jill Jim Jimmy
    Joan Joe Joel John Johnny Jonathan Joseph Joshua Josh Judith Judy Julia Julian Julie Justin Karen Karl Kate
    Katherine Kathleen Katie Keith Kelly Ken Kenneth Kevin Kim Kyle Larry Laura Lauren Lawrence Leo Leon Leonard
    Leslie Lewis Linda Lisa Liz Louis Louise Lucas Lucy Luke Luis Lynn Maggie Marcus Margaret Maria Marie Marilyn
    Mario Marion Martha Martin Mary Matt Matthew Max Megan Melissa Michael Michelle Miguel Mike Molly Monica Morgan
    Nancy Natalie Nathan Neil Nicholas Nick Nicole Nina Noah Nora Norman Oliver Olivia Oscar Pamela Patricia Patrick
    Paul Paula Pedro Peggy Peter Phil Philip Rachel Ralph Raymond Rebecca Richard Rick Rita Robert Robin Roger Ron
    Ronald Roy Russell Ruth Ryan Sally Sam Samantha Samuel Sandra Sara Sarah Scott Sean Seth Sharon Simon Sofia
    Sophia Sophie Stella Stephanie Stephen Steve Steven Stuart Susan Suzanne Teresa Terry Theodore Theresa Thomas
    Tim Timothy Todd Tom Tommy Tony Tracy Tyler Vanessa Vera Vernon Victor Vincent Vivian Walter Warren Wayne Wendy
    William Zachary Zoe
    """
)

PLACES: tuple[str, ...] = _words(
    """
    store school office restaurant library museum market church theater hotel farm bank bakery station hospital cafe
    shop house bookstore clinic studio gym pharmacy factory gallery cottage
    """
)

OBJECTS: tuple[str, ...] = _words(
    """
    drink book ring basket letter map key gift ticket lamp camera watch coat box pen ball bag card bottle picture
    sandwich flower hat guitar toy bowl blanket necklace notebook candle
    """
)

IOI_FRAMES: tuple[str, ...] = (
    "When {A} and {B} went to the {place}, {S} gave a {object} to",
    "Then, {A} and {B} visited the {place}. {S} gave a {object} to",
    "After {A} and {B} arrived at the {place}, {S} handed a {object} to",
    "While {A} and {B} were working at the {place}, {S} showed a {object} to",
    "Last week, {A} and {B} met at the {place}, and {S} sold a {object} to",
    "As {A} and {B} walked past the {place}, {S} passed a {object} to",
    "Once {A} and {B} got to the {place}, {S} decided to give a {object} to",
    "One day, {A} and {B} found a {object} behind the {place}. {S} handed it to",
    "Yesterday, {A} and {B} had lunch near the {place}. Afterwards, {S} offered a {object} to",
    "Before {A} and {B} left the {place}, {S} showed a {object} to",
    "Last night, {A} and {B} had a long argument at the {place}. Later, {S} sent a {object} to",
    "On Sunday, {A} and {B} cleaned the {place} together, and {S} lent a {object} to",
    "This morning, {A} and {B} had a lot of fun at the {place}. {S} tossed a {object} to",
    "It was raining when {A} and {B} reached the {place}, so {S} gave a {object} to",
    "Long ago, {A} and {B} lived next to the {place}. One summer, {S} mailed a {object} to",
    "At noon, {A} and {B} sat down outside the {place}, and {S} handed a {object} to",
    "Since {A} and {B} were the last to leave the {place}, {S} threw a {object} to",
    "The day that {A} and {B} opened the {place}, {S} presented a {object} to",
    "Although {A} and {B} did not like the {place}, {S} brought back a {object} and gave it to",
    "In the evening, {A} and {B} took a walk around the {place}, and then {S} lent a {object} to",
)

YEAR_FRAMES: tuple[str, ...] = (
    "The {noun} lasted from the year {start} to the year {cut}",
    "The {noun} went on from the year {start} to the year {cut}",
    "The {noun} began in the year {start} and ended in the year {cut}",
    "The {noun} started in the year {start} and finished in the year {cut}",
    "Records show that the {noun} continued from the year {start} to the year {cut}",
    "According to the book, the {noun} lasted from the year {start} until the year {cut}",
    "In total, the {noun} ran from the year {start} to the year {cut}",
    "Historians agree that the {noun} lasted from the year {start} to the year {cut}",
    "The first {noun} of its kind lasted from the year {start} to the year {cut}",
    "As everyone knows, the {noun} took place from the year {start} to the year {cut}",
)

NOUNS: tuple[str, ...] = _words(
    """
    alliance apprenticeship assignment blockade boycott campaign captivity ceasefire collaboration competition conflict
    confrontation construction contest controversy conquest crisis crusade custody debate decline depression dispute
    drought dynasty embargo empire engagement epidemic exile expansion expedition experiment exploration famine festival
    feud friendship hostility imprisonment inquiry insurgency invasion investigation journey kingdom lawsuit
    marriage migration mission monopoly mutiny negotiation occupation operation outbreak partnership persecution
    pilgrimage plague preparation presidency program project prosecution protest quarantine quest rebellion recession
    reconstruction reform regime reign renovation research resistance restoration retreat revival revolt revolution
    rivalry rule sanction search settlement siege slump standoff strike struggle study supremacy tenure term
    tournament training treaty trial truce uprising voyage war
    """
)
