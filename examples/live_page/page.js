// Seconds without a word from the server after which the connection counts as lost.
const SILENCE = 20;
const RETRY = 3;
// Seconds after which a connection is replaced, because the server's clock has drifted from this one.
const RENEWAL = 3600;
// Seconds in which the next code usually comes once the former has died.
const MOMENT = 5;

const SIGNS = { waiting: "···", connected: "✓" };
const PROBLEMS = ["offline", "refused", "lost"];

const allTexts = await (await fetch("texts.json")).json();
const language = chosenLanguage(Object.keys(allTexts));
const texts = allTexts[language];
const inLanguage = new Intl.NumberFormat(language);

const byId = (id) => document.getElementById(id);
const list = byId("cards");
const dialog = byId("large");
const order = new Intl.Collator(language, { numeric: true });

const cards = new Map(); // by key: two servers may have an instance of the same name
let lifetime = 45;
let database = "unread";
let enlarged = null; // key of the card in the dialog
let source = null;
let heardAt = 0;
let openedAt = 0;
let ahead = 0; // of now(), on the server's clock
let isLost = false;

document.documentElement.lang = language;
fillIn(document);
fillIn(byId("card").content);

// The first language of the browser that there is, also as another country's: pt serves as pt-BR.
function chosenLanguage(there) {
  for (const wanted of navigator.languages) {
    const root = (name) => name.toLowerCase().split("-")[0];
    const found = there.find((name) => root(name) === root(wanted));
    if (found) return found;
  }
  return there[0];
}

function text(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? inLanguage.format(values[name]) : values[name]);
}

function fillIn(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
}

// Codes die also while a machine sleeps. performance.now() stands still then in most browsers
// (https://github.com/w3c/hr-time/issues/115). Date.now() does not, but it can be set. So what it
// gains on the other by leaps was sleep, or is taken for it.
const LEAP = 1000;
let lead = Date.now() - performance.now();
let slept = 0;

function now() {
  const gain = Date.now() - performance.now() - lead;
  if (Math.abs(gain) > LEAP) {
    lead += gain;
    slept += Math.max(gain, 0);
    openedAt -= RENEWAL; // how far the clocks are apart has to be found out anew
  }
  return (performance.now() + slept) / 1000;
}

function connect() {
  source?.close();
  source = new EventSource("events");
  heardAt = openedAt = now();
  source.onopen = () => {
    openedAt = now();
  };
  source.onmessage = (message) => {
    heardAt = now();
    isLost = false;
    take(JSON.parse(message.data));
  };
  source.onerror = () => {
    isLost = true;
    draw();
  };
}

function take(event) {
  lifetime = event.lifetime;
  database = event.database;
  // The ages are those of when this was written. A page that the browser has stopped for a while, or
  // that is on a slow connection, gets it later. The first event is written as a connection opens.
  if (event.all) ahead = openedAt - event.time;
  ahead = Math.min(ahead, now() - event.time);
  const writtenAt = event.time + ahead;
  // The first event after a new connection has every card that there is.
  const keys = new Set(event.cards.map((card) => card.key));
  const gone = event.all ? [...cards.keys()].filter((key) => !keys.has(key)) : event.gone;
  for (const key of gone) {
    cards.get(key)?.element.remove();
    cards.delete(key);
  }
  for (const { picture, age, ...rest } of event.cards) {
    const card = cards.get(rest.key) ?? add(rest);
    Object.assign(card, rest, { storedAt: age === null ? null : writtenAt - age });
    if (card.picture !== picture) {
      card.picture = picture;
      const image = card.element.querySelector("img");
      if (picture) image.src = picture;
      else image.removeAttribute("src");
    }
  }
  draw();
}

function add({ key, name, server }) {
  const element = byId("card").content.firstElementChild.cloneNode(true);
  const place = server === null ? "" : text("on_server", { server });
  const label = [name, place].filter(Boolean).join(", ");
  // Only ever as text: a name may hold anything.
  element.querySelector("h2").textContent = name;
  element.querySelector(".server").textContent = place;
  const button = element.querySelector("button");
  button.setAttribute("aria-label", text("enlarge", { name: label }));
  button.addEventListener("click", () => {
    enlarged = key;
    draw();
    dialog.showModal();
  });
  const card = { key, name, label, element, told: null };
  // Cards stand in the order of their names, and none is moved: the keyboard's place stays.
  const next = [...cards.values()].sort(compare).find((other) => compare(card, other) < 0);
  list.insertBefore(element, next?.element ?? null);
  cards.set(key, card);
  return card;
}

function compare(a, b) {
  return order.compare(a.name, b.name) || (a.key < b.key ? -1 : 1);
}

function stateOf(card) {
  if (card.status !== "connecting") return card.status === "connected" ? "connected" : "other";
  if (!card.picture) return "waiting";
  return card.storedAt !== null && now() - card.storedAt <= lifetime ? "live" : "expired";
}

function isBetweenCodes(card, state) {
  return state === "expired" && card.storedAt !== null && now() - card.storedAt < lifetime + MOMENT;
}

function restOf(card) {
  return Math.max(0, card.storedAt + lifetime - now());
}

function ageText(card, state) {
  if (state === "live") return text("expires", { seconds: Math.ceil(restOf(card)) });
  if (state !== "expired" || card.storedAt === null) return "";
  const seconds = Math.max(0, Math.floor(now() - card.storedAt));
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return text("stored_seconds", { seconds });
  if (minutes < 60) return text("stored_minutes", { minutes, seconds: seconds % 60 });
  return text("stored_hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

function reasonText(card, state) {
  const isShown = (state === "waiting" || state === "expired") && card.reason !== null;
  if (!isShown || isBetweenCodes(card, state)) return "";
  return text(`reason_${card.reason}`, { error: card.error ?? "" });
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// What a card and the dialog have in common.
function drawWords(element, card) {
  element.dataset.state = card.state;
  setText(element.querySelector(".state"), card.text);
  setText(element.querySelector(".age"), card.ageText);
  element.querySelector(".made-up").hidden = !(card.made_up && card.hasPicture);
  const bar = element.querySelector(".bar");
  bar.hidden = card.state !== "live";
  if (!bar.hidden) bar.firstElementChild.style.width = `${(100 * restOf(card)) / lifetime}%`;
}

function drawCard(card) {
  const state = stateOf(card);
  const words = text(`state_${state}`, { status: card.status });
  const hasPicture = state === "live" || state === "expired";
  Object.assign(card, { state, text: words, ageText: ageText(card, state), hasPicture });
  const { element } = card;
  drawWords(element, card);
  const button = element.querySelector("button");
  if (!hasPicture && document.activeElement === button) element.querySelector("h2").focus();
  button.hidden = !hasPicture;
  const placeholder = element.querySelector(".no-picture");
  placeholder.hidden = hasPicture;
  setText(placeholder, SIGNS[state] ?? "–");
  setText(element.querySelector(".reason"), reasonText(card, state));
  if (isBetweenCodes(card, state) || words === card.told) return null;
  const isFirst = card.told === null;
  card.told = words;
  return isFirst ? null : `${card.label}: ${words}`;
}

function drawDialog() {
  const card = cards.get(enlarged);
  if (!card?.hasPicture) {
    dialog.close();
    card?.element.querySelector("h2").focus();
    return;
  }
  drawWords(dialog, card);
  setText(byId("large-name"), card.label);
  const image = dialog.querySelector("img");
  if (image.src !== card.picture) image.src = card.picture;
}

function draw() {
  const changes = [...cards.values()].map(drawCard).filter(Boolean);
  // Read aloud: what has become of an instance, but neither each second nor each new code.
  if (changes.length) byId("announcer").textContent = changes.join(". ");
  if (enlarged !== null) drawDialog();
  const problem = isLost ? "lost" : database;
  byId("problem").hidden = !PROBLEMS.includes(problem);
  setText(byId("problem"), byId("problem").hidden ? "" : text(`problem_${problem}`));
  const counts = { live: 0, expired: 0, waiting: 0, connected: 0, other: 0 };
  for (const card of cards.values()) counts[card.state] += 1;
  setText(byId("summary"), cards.size ? text("summary", counts) : "");
  byId("empty").hidden = cards.size > 0 || database !== "online";
}

// A browser tells of this only with its next frame, and the dialog may be open again by then.
dialog.addEventListener("close", () => {
  if (!dialog.open) enlarged = null;
});

// A server that answers, but not with events: it may have another token since its last start. To
// load the page anew then shows what it says to that.
async function askWhy() {
  heardAt = now();
  const response = await fetch("page.js", { cache: "no-store" }).catch(() => null);
  if (response?.status === 401) location.reload();
  else connect();
}

setInterval(() => {
  const silence = now() - heardAt;
  if (source.readyState === EventSource.CLOSED && silence > RETRY) {
    askWhy();
  } else if (silence > SILENCE) {
    // A phone that slept, or a cable that was pulled, ends a connection without an error.
    isLost = true;
    connect();
  } else if (now() - openedAt > RENEWAL) {
    connect();
  }
  draw();
}, 1000);

connect();
