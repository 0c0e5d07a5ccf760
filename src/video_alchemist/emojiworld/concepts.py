"""Which emoji become EmojiWorld concepts, and the plain words they get in captions.

Slugs are Unicode emoji names with hyphens. Left out: text, symbols, flags, hands, smileys, clocks, groups of people,
and thin things that vanish at 64 pixels.
"""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Where an emoji set comes from."""

    author: str
    licence: str
    url: str


APACHE, MIT, CC_BY = "Apache-2.0", "MIT", "CC BY 4.0"
LICENCE_URLS = {
    APACHE: "https://www.apache.org/licenses/LICENSE-2.0",
    MIT: "https://opensource.org/license/mit",
    CC_BY: "https://creativecommons.org/licenses/by/4.0/",
}
MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
NOTO_URL = "https://github.com/googlefonts/noto-emoji"
FLUENT_URL = "https://github.com/microsoft/fluentui-emoji"
ARTISTS = {
    "noto": Source("Google Inc", APACHE, NOTO_URL),
    "noto-v1": Source("Google Inc", APACHE, NOTO_URL),
    "fluent-emoji": Source("Microsoft Corporation", MIT, FLUENT_URL),
    "fluent-emoji-flat": Source("Microsoft Corporation", MIT, FLUENT_URL),
    "twemoji": Source("Twitter", CC_BY, "https://github.com/jdecked/twemoji"),
    "emojione": Source("EmojiOne", CC_BY, "https://github.com/EmojiTwo/emojitwo"),
    "fxemoji": Source("Mozilla", APACHE, "https://github.com/mozilla/fxemoji"),
}


def _slugs(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    """Parse "slug=word; slug=word" tables."""
    rows = (part.strip().partition("=") for part in text.split(";"))
    return {slug: word for slug, _, word in rows}


SUBGROUPS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine", "animal-bug"),
        ("subject", "animal"),
    ),
    "monkey-face": ("subject", "animal"),
    "face-costume": ("subject", "creature"),
    **dict.fromkeys(("plant-flower", "plant-other"), ("object", "plant")),
    **dict.fromkeys(
        ("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet", "drink"), ("object", "food")
    ),
    **dict.fromkeys(
        "dishware place-geographic place-building place-religious place-other sky-weather event award-medal "
        "sport game arts-crafts clothing sound music musical-instrument phone computer light-video book-paper money "
        "mail writing office lock tool science medical household other-object place-map time hotel transport-ground "
        "transport-water transport-air".split(),
        ("object", "thing"),
    ),
}

DROPPED = _slugs("""
    paw-prints pig-nose feather wing spider-web microbe coral pile-of-poo hatching-chick mosquito dodo
    hear-no-evil-monkey speak-no-evil-monkey see-no-evil-monkey
    leaf-fluttering-in-wind empty-nest herb sheaf-of-rice rosette wilted-flower leafless-tree
    leafy-green pouring-liquid clinking-beer-mugs clinking-glasses shallow-pan-of-food bowl-with-spoon mate ice
    salt cut-of-meat chopsticks fork-and-knife fork-and-knife-with-plate root-vegetable stuffed-flatbread flatbread
    ginger-root fish-cake-with-swirl
    map-of-japan globe-with-meridians landslide building-construction wedding love-hotel japanese-post-office
    kaaba foggy night-with-stars hot-springs barber-pole sunrise sunset sunrise-over-mountains
    station railway-track motorway construction stop-sign police-car-light wheel oil-drum bus-stop
    manual-wheelchair motorized-wheelchair airplane-departure airplane-arrival seat suspension-railway
    oncoming-bus trolleybus railway-car tram-car light-rail mountain-railway aerial-tramway train metro
    hourglass-not-done timer-clock shell spiral-shell oyster
    new-moon waxing-crescent-moon first-quarter-moon waxing-gibbous-moon waning-gibbous-moon last-quarter-moon
    waning-crescent-moon new-moon-face first-quarter-moon-face last-quarter-moon-face thermometer glowing-star
    shooting-star milky-way cloud-with-lightning-and-rain sun-behind-small-cloud sun-behind-large-cloud
    sun-behind-rain-cloud sun-behind-cloud cloud-with-snow cloud-with-lightning cloud-with-rain fog wind-face
    cyclone umbrella-on-ground high-voltage umbrella-with-rain-drops closed-umbrella water-wave
    fireworks sparkler sparkles tanabata-tree pine-decoration japanese-dolls carp-streamer wind-chime
    moon-viewing-ceremony ribbon reminder-ribbon admission-tickets 1st-place-medal 2nd-place-medal 3rd-place-medal
    goal-net flag-in-hole skis badminton field-hockey lacrosse ice-hockey cricket-game tennis
    spade-suit heart-suit diamond-suit club-suit joker mahjong-red-dragon flower-playing-cards performing-arts
    thread sewing-needle knot bullseye
    sari one-piece-swimsuit briefs bikini hair-pick prayer-beads socks gloves shopping-bags
    muted-speaker speaker-low-volume speaker-medium-volume speaker-high-volume bell-with-slash
    musical-score musical-note musical-notes level-slider control-knobs mobile-phone-with-arrow telephone-receiver
    low-battery film-frames page-with-curl page-facing-up bookmark-tabs bookmark label
    yen-banknote euro-banknote pound-banknote dollar-banknote money-with-wings receipt chart-increasing-with-yen
    e-mail incoming-envelope envelope-with-arrow outbox-tray inbox-tray closed-mailbox-with-lowered-flag
    open-mailbox-with-raised-flag open-mailbox-with-lowered-flag memo black-nib
    open-file-folder card-index-dividers tear-off-calendar spiral-notepad spiral-calendar card-index
    chart-increasing chart-decreasing bar-chart pushpin round-pushpin paperclip linked-paperclips straight-ruler
    triangular-ruler locked-with-pen locked-with-key hammer-and-pick hammer-and-wrench crossed-swords
    white-cane link broken-chain chains hook drop-of-blood syringe pill adhesive-bandage crutch x-ray
    dna petri-dish shower elevator mouse-trap safety-pin roll-of-paper bubbles mirror razor
    cigarette nazar-amulet hamsa placard identification-card funeral-urn headstone coffin oden falafel tamale
    water-pistol smoking bomb green-book blue-book orange-book open-book comet droplet
    rolled-up-newspaper knife magnifying-glass-tilted-right ladder flute long-drum splatter
    """)

# Slug -> concept word: several emoji of one thing share a word, and mass nouns become countable.
MERGED: dict[str, str] = _pairs("""
    monkey-face=monkey; dog-face=dog; guide-dog=dog; service-dog=dog; cat-face=cat; black-cat=cat; tiger-face=tiger;
    horse-face=horse; cow-face=cow; pig-face=pig; mouse-face=mouse; rabbit-face=rabbit; dragon-face=dragon;
    two-hump-camel=camel; baby-chick=chick; front-facing-baby-chick=chick; black-bird=bird; spouting-whale=whale;
    lady-beetle=ladybug; honeybee=bee; sauropod=dinosaur; t-rex=t-rex; blowfish=pufferfish; dove=pigeon;
    clown-face=clown; alien-monster=monster; rooster=rooster; bug=caterpillar; red-apple=apple; green-apple=apple;
    grapes=bunch of grapes; cherries=pair of cherries; blueberries=bunch of blueberries; kiwi-fruit=kiwi;
    ear-of-corn=corn cob; hot-pepper=chili pepper; peanuts=peanut; beans=bean; brown-mushroom=mushroom;
    bread=loaf of bread; baguette-bread=baguette; pancakes=stack of pancakes; cheese-wedge=piece of cheese;
    meat-on-bone=piece of meat; poultry-leg=chicken leg; bacon=strip of bacon; french-fries=box of fries;
    cooking=frying pan; pot-of-food=stew pot; green-salad=salad; popcorn=box of popcorn; butter=stick of butter;
    canned-food=can of food; bento-box=lunch box; cooked-rice=bowl of rice; curry-rice=plate of curry;
    steaming-bowl=bowl of noodles; spaghetti=plate of spaghetti; roasted-sweet-potato=sweet potato;
    sushi=piece of sushi; fried-shrimp=fried shrimp; takeout-box=takeout box; soft-ice-cream=ice cream cone;
    shaved-ice=shaved ice; ice-cream=bowl of ice cream; shortcake=slice of cake; birthday-cake=birthday cake;
    custard=pudding; honey-pot=honey pot; hot-beverage=cup of coffee; teacup-without-handle=cup of tea;
    sake=bottle of sake; bottle-with-popping-cork=champagne bottle; tumbler-glass=glass of whiskey;
    cup-with-straw=soda cup; beverage-box=juice box; pizza=slice of pizza; fondue=fondue pot; bubble-tea=bubble tea;
    kitchen-knife=kitchen knife; melon=melon; pea-pod=pea pod; evergreen-tree=pine tree; deciduous-tree=tree;
    lotus=lotus flower; hibiscus=hibiscus flower; shamrock=clover; four-leaf-clover=clover; fallen-leaf=autumn leaf;
    blossom=flower; white-flower=flower; nest-with-eggs=nest; hyacinth=hyacinth flower; cherry-blossom=cherry blossom;
    globe-showing-europe-africa=globe; globe-showing-americas=globe; globe-showing-asia-australia=globe;
    snow-capped-mountain=snowy mountain; mount-fuji=snowy mountain; camping=tent; beach-with-umbrella=beach;
    national-park=park; classical-building=temple; wood=log; houses=house; derelict-house=house;
    house-with-garden=house; post-office=post office; japanese-castle=castle; tokyo-tower=tower; hindu-temple=temple;
    shinto-shrine=shrine; statue-of-liberty=statue; cityscape-at-dusk=city; cityscape=city; bridge-at-night=bridge;
    playground-slide=slide; bank=bank; circus-tent=circus tent; locomotive=steam train; high-speed-train=train;
    bullet-train=train; oncoming-police-car=police car; oncoming-taxi=taxi; automobile=car; oncoming-automobile=car;
    sport-utility-vehicle=car; delivery-truck=truck; articulated-lorry=truck; racing-car=race car;
    motor-scooter=scooter; auto-rickshaw=rickshaw; roller-skate=roller skate; fuel-pump=gas pump;
    horizontal-traffic-light=traffic light; vertical-traffic-light=traffic light; ring-buoy=life buoy;
    passenger-ship=ship; motor-boat=motorboat; small-airplane=airplane; mountain-cableway=cable car;
    flying-saucer=ufo; bellhop-bell=service bell; luggage=suitcase; hourglass-done=hourglass; mantelpiece-clock=clock;
    alarm-clock=alarm clock; crescent-moon=moon; full-moon=moon; full-moon-face=moon; sun-with-face=sun;
    ringed-planet=planet; snowman-without-snow=snowman; umbrella=umbrella; fire=flame;
    jack-o-lantern=halloween pumpkin; christmas-tree=christmas tree; wrapped-gift=gift; military-medal=medal;
    sports-medal=medal; american-football=football; rugby-football=rugby ball; flying-disc=frisbee;
    bowling=bowling ball; softball=baseball; ping-pong=ping pong paddle; martial-arts-uniform=karate suit;
    fishing-pole=fishing rod; diving-mask=diving mask; running-shirt=tank top; pool-8-ball=billiard ball;
    video-game=game controller; game-die=dice; mirror-ball=disco ball; nesting-dolls=nesting doll;
    framed-picture=picture frame; artist-palette=palette; yarn=ball of yarn; glasses=pair of glasses;
    sunglasses=pair of sunglasses; goggles=pair of goggles; jeans=pair of jeans; shorts=pair of shorts;
    folding-hand-fan=hand fan; clutch-bag=purse; thong-sandal=sandal; mans-shoe=shoe; womans-sandal=sandal;
    running-shoe=sneaker; hiking-boot=boot; flat-shoe=flat shoe; high-heeled-shoe=high heel; ballet-shoes=ballet shoe;
    womans-boot=boot; womans-hat=sun hat; womans-clothes=blouse; billed-cap=cap; rescue-workers-helmet=helmet;
    military-helmet=helmet; gem-stone=diamond; studio-microphone=microphone; headphone=pair of headphones;
    garlic=garlic bulb; yo-yo=yo-yo; t-shirt=t-shirt; nut-and-bolt=bolt; musical-keyboard=piano keyboard;
    postal-horn=horn; maracas=maraca; mobile-phone=phone; laptop=laptop; desktop-computer=computer;
    computer-mouse=computer mouse; computer-disk=disk; floppy-disk=floppy disk; optical-disk=disk; dvd=disk;
    electric-plug=plug; film-projector=projector; clapper-board=clapperboard; camera-with-flash=camera;
    magnifying-glass-tilted-left=magnifying glass; red-paper-lantern=lantern; diya-lamp=oil lamp;
    notebook-with-decorative-cover=notebook; closed-book=book; books=stack of books; money-bag=bag of money;
    package=box; closed-mailbox-with-raised-flag=mailbox; ballot-box-with-ballot=ballot box; file-folder=folder;
    card-file-box=file box; scissors=pair of scissors; locked=padlock; unlocked=padlock; old-key=key; pick=pickaxe;
    bow-and-arrow=bow; carpentry-saw=saw; balance-scale=scale; satellite-antenna=satellite dish; couch-and-lamp=couch;
    lotion-bottle=lotion bottle; roll-of-paper=paper roll; soap=bar of soap; moai=stone head; wastebasket=trash can
    """)

SCENERY = frozenset(
    (
        "snowy mountain;mountain;volcano;tent;beach;desert;desert island;park;stadium;temple;rock;hut;house;"
        "office building;post office;hospital;bank;hotel;convenience store;school;department store;factory;castle;"
        "tower;church;mosque;synagogue;shrine;fountain;city;bridge;ferris wheel;roller coaster;circus tent;"
        "pine tree;tree;palm tree;cactus;christmas tree;cloud;sun;moon;star;rainbow;planet;tornado;snowflake;statue;"
        "slide"
    ).split(";")
)

_TOYS = (
    "robot;teddy bear;yo-yo;kite;frisbee;balloon;dice;puzzle piece;nesting doll;carousel horse;pinata;boomerang;"
    "joystick;game controller"
)
_VEHICLES = (
    "steam train;train;tram;monorail;bus;minibus;ambulance;fire engine;police car;taxi;car;pickup truck;truck;"
    "tractor;race car;motorcycle;scooter;rickshaw;bicycle;kick scooter;skateboard;sailboat;canoe;speedboat;ship;"
    "ferry;motorboat;airplane;helicopter;cable car;satellite;rocket;ufo;parachute;sled"
)
BROADER: dict[str, str] = {
    **dict.fromkeys(_TOYS.split(";"), "toy"),
    **dict.fromkeys(_VEHICLES.split(";"), "vehicle"),
    **dict.fromkeys(("dragon", "unicorn", "phoenix", "monster"), "creature"),
    "clown": "person",
}

HAIR = ("red-hair", "curly-hair", "white-hair", "bald", "beard", "blond-hair")


def _gendered(*slugs: str) -> tuple[str, ...]:
    return tuple(f"{gender}-{slug}" for slug in slugs for gender in ("man", "woman"))


def _people() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name every person as concept -> (broader, base slugs)."""
    people: dict[str, tuple[str, tuple[str, ...]]] = {
        "baby": ("person", ("baby",)),
        "child": ("person", ("child",)),
        "boy": ("person", ("boy",)),
        "girl": ("person", ("girl",)),
        "man": ("person", ("man",)),
        "woman": ("person", ("woman",)),
        "old man": ("person", ("old-man",)),
        "old woman": ("person", ("old-woman",)),
        "prince": ("person", ("prince",)),
        "princess": ("person", ("princess",)),
        "bride": ("person", ("woman-with-veil", "bride-with-veil", "person-with-veil")),
        "groom": ("person", ("man-in-tuxedo", "person-in-tuxedo")),
        "woman in headscarf": ("person", ("woman-with-headscarf",)),
        "man in turban": ("person", ("man-wearing-turban",)),
        "ninja": ("person", ("ninja",)),
        "santa": ("person", ("santa-claus", "father-christmas")),
        "mrs claus": ("person", ("mrs-claus", "mother-christmas")),
        "angel": ("creature", ("baby-angel",)),
        "mermaid": ("creature", ("mermaid",)),
        "merman": ("creature", ("merman",)),
        "troll": ("creature", ("troll",)),
        "bigfoot": ("creature", ("hairy-creature",)),
    }
    roles = (
        "health-worker=doctor;student=student;teacher=teacher;judge=judge;farmer=farmer;cook=cook;mechanic=mechanic;"
        "factory-worker=welder;office-worker=office worker;scientist=scientist;technologist=programmer;singer=singer;"
        "artist=painter;pilot=pilot;astronaut=astronaut;firefighter=firefighter;police-officer=police officer;"
        "detective=detective;guard=royal guard;construction-worker=construction worker"
    )
    fantasy = "superhero;supervillain;mage=wizard;fairy;vampire;elf;genie;zombie"
    sports = (
        "running=runner;golfing=golfer;surfing=surfer;swimming=swimmer;lifting-weights=weightlifter;biking=cyclist;"
        "mountain-biking=mountain biker;cartwheeling=gymnast;juggling=juggler;rowing-boat=rower;climbing=climber;"
        "walking=pedestrian;playing-handball=handball player;dancing=dancer"
    )
    for table, broader in ((roles, "person"), (fantasy, "creature"), (sports, "person")):
        for part in table.split(";"):
            base, _, concept = part.partition("=")
            people[concept or base] = (broader, (*_gendered(base), base))
    return people | {
        "skier": ("person", ("skier",)),
        "snowboarder": ("person", ("snowboarder",)),
        "fencer": ("person", ("person-fencing",)),
        "ballet dancer": ("person", ("ballet-dancer",)),
        "horse rider": ("person", ("horse-racing",)),
    }


PEOPLE = _people()

FULL_BODY = frozenset(
    "runner;golfer;surfer;swimmer;weightlifter;cyclist;mountain biker;gymnast;juggler;rower;climber;pedestrian;"
    "handball player;dancer;skier;snowboarder;fencer;ballet dancer;horse rider;mermaid;merman;fairy;genie;troll;"
    "bigfoot;ninja;zombie".split(";")
)

# Known slug -> Mozilla's own file name, where the two differ by more than hyphens.
FXEMOJI_NAMES: dict[str, str] = _pairs("""
    fox=foxsmiling; rabbit-face=bunny; dog=dogside; pig=pigside; mouse=mouseside; tiger=tigerside;
    leopard=leopardside; dragon=dragonside; dragon-face=dragonhead; cat=catside; wolf=wolfface; panda=pandaface;
    camel=dromedarycamel; two-hump-camel=bactriancamel; hamster=hampster; front-facing-baby-chick=frontfacingchick;
    dove=doveofpeace; spouting-whale=spurtingwhale; ewe=sheep; goblin=japaneseangrymask; eggplant=aubergine;
    ear-of-corn=earofmaize; hot-pepper=chilipepper; pizza=sliceofpizza; rabbit=bunnyside; curry-rice=curryandrice;
    bouquet=bouquetofflowers; evergreen-tree=evergreen; snow-capped-mountain=snowmountains; house=housebuilding;
    castle=europeancastle; post-office=europeanpostoffice; tokyo-tower=toykotower; locomotive=steamlocomotive;
    bullet-train=highspeedtrainbulletnose; racing-car=racecar; passenger-ship=ship; sun=whitesun;
    wrapped-gift=present; basketball=basketballandhoop; pool-8-ball=billiards; fishing-pole=fishingpoleandfish;
    necktie=tie; t-shirt=mansshirt; womans-clothes=womansshirt; mans-shoe=mensshoe; running-shoe=mensrunner;
    high-heeled-shoe=heels; womans-sandal=sandals; womans-boot=boot; backpack=schoolsatchel; purse=pinkwallet;
    sunglasses=darksunglasses; gem-stone=gem; studio-microphone=studiomic; telephone=blacktelephone;
    desktop-computer=personalcomputer; keyboard=wiredkeyboard; computer-mouse=threebuttonmouse;
    video-camera=handheldvideocamera; magnifying-glass-tilted-left=leftmagnifyingglass; flashlight=electrictorch;
    red-paper-lantern=izakayalantern; scissors=blackscissors; fountain-pen=lowerleftfountainpen;
    crayon=lowerleftcrayon; paintbrush=lowerleftpaintbrush; locked=lock; unlocked=openlock; dagger=daggerknife;
    kitchen-knife=hocho; sake=sakebottleandcup; closed-mailbox-with-raised-flag=closedmailboxraised;
    santa-claus=fatherchristmas; police-officer=cop; guard=guardsman; construction-worker=construct;
    man-wearing-turban=turban; woman-with-veil=bride; golfing=golfer; surfing=surfer; biking=bicyclist;
    lifting-weights=weightlifter; woman-dancing=dancer
    """)

# Faces that skin does not tell: sets of one skin tone, and faces that glasses or a beard divide. From the hairline to
# the chin, cheek to cheek, as shares of the tile: (artist, concept) -> x0, y0, x1, y1.
FACES: dict[tuple[str, str], tuple[float, float, float, float]] = {
    ("fxemoji", "baby"): (0.21, 0.15, 0.79, 0.88),
    ("fxemoji", "boy"): (0.15, 0.25, 0.86, 0.98),
    ("fxemoji", "girl"): (0.17, 0.42, 0.87, 0.97),
    ("fxemoji", "man"): (0.13, 0.29, 0.87, 0.98),
    ("fxemoji", "woman"): (0.2, 0.26, 0.79, 0.98),
    ("fxemoji", "princess"): (0.13, 0.31, 0.85, 0.98),
    ("fxemoji", "bride"): (0.2, 0.31, 0.81, 0.97),
    ("fxemoji", "man in turban"): (0.15, 0.37, 0.86, 0.98),
    ("fxemoji", "santa"): (0.17, 0.36, 0.76, 0.72),
    ("fxemoji", "angel"): (0.16, 0.3, 0.84, 0.98),
    ("fxemoji", "police officer"): (0.13, 0.41, 0.86, 0.98),
    ("fxemoji", "royal guard"): (0.19, 0.56, 0.81, 0.98),
    ("fxemoji", "construction worker"): (0.13, 0.5, 0.85, 0.98),
    ("emojione", "baby"): (0.08, 0.08, 0.92, 0.92),
    ("emojione", "man"): (0.1, 0.2, 0.9, 0.97),
    ("emojione", "old man"): (0.1, 0.1, 0.9, 0.96),
    ("emojione", "old woman"): (0.1, 0.3, 0.9, 0.96),
    ("emojione", "prince"): (0.14, 0.4, 0.86, 0.96),
    ("emojione", "santa"): (0.12, 0.25, 0.78, 0.6),
    ("emojione", "mrs claus"): (0.12, 0.3, 0.86, 0.86),
}
