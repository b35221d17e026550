// The chat: what is said, what is shown of it, and the settings. All text goes in as text, never as HTML.

import { ApiError, chat, findModel } from "./api.js";
import { CacheView } from "./cache.js";

const find = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "seed", "max_tokens"];
const REASONS = { length: "longest answer reached", stop: "", stopped: "stopped" };

const cache = new CacheView();
const settings = load("settings", {});
let messages = load("messages", []); // as the API takes them
let key = ""; // never stored
let model = null;
let running = null; // AbortController of the answer that is being written

// -- what survives a reload of this tab -------------------------------------------------

function load(name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
  } catch {
    // full or forbidden: the page works without
  }
}

// -- messages ---------------------------------------------------------------------------

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function button(text, action) {
  const made = make("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function addMessage({ role, content }) {
  const item = make("li", role);
  const text = make("div", "text", content);
  const foot = make("div", "foot");
  item.append(make("span", "who", role === "user" ? "You" : "Model"), text, foot);
  find("messages").append(item);
  find("welcome").hidden = true;
  if (role === "assistant") {
    foot.append(button("Copy", () => navigator.clipboard?.writeText(text.textContent)));
    foot.append(button("Answer again", again));
  }
  return { item, text, foot };
}

function showAll() {
  find("messages").replaceChildren();
  find("welcome").hidden = messages.length > 0;
  for (const message of messages) addMessage(message);
  markLast();
}

// Only the last answer can be given again.
function markLast() {
  const answers = [...document.querySelectorAll("#messages .assistant .foot")];
  answers.forEach((foot, i) => {
    foot.children[1].hidden = i < answers.length - 1 || running !== null;
  });
}

const scroller = find("scroller");
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;

function keepAtEnd(change) {
  const follow = atEnd();
  change();
  if (follow) scroller.scrollTop = scroller.scrollHeight;
}

// -- an answer --------------------------------------------------------------------------

function requestBody() {
  const body = { messages, stream: true, stream_options: { include_usage: true }, scope: { picture: true } };
  if (model) body.model = model.id;
  if (settings.system) {
    body.messages = [{ role: "system", content: settings.system }, ...messages];
  }
  for (const name of NUMBERS) {
    if (settings[name]) body[name] = Number(settings[name]);
  }
  for (const name of ["policy", "budget"]) {
    if (settings[name]) body[name] = settings[name];
  }
  return body;
}

async function answer() {
  showError();
  running = new AbortController();
  cache.begin();
  const shown = addMessage({ role: "assistant", content: "" });
  shown.item.setAttribute("aria-busy", "true");
  busy(true);
  scroller.scrollTop = scroller.scrollHeight;
  const said = { content: "", reason: "", noText: "", usage: null, seconds: 0, fault: null };
  const started = performance.now();
  try {
    for await (const chunk of chat(requestBody(), { key, signal: running.signal })) {
      take(chunk, said, shown);
    }
  } catch (fault) {
    if (fault.name === "AbortError") said.reason = "stopped";
    else said.fault = fault;
  }
  said.seconds = (performance.now() - started) / 1000;
  finish(said, shown);
}

function take(chunk, said, shown) {
  const choice = chunk.choices?.[0];
  const text = choice?.delta?.content ?? "";
  if (text) {
    said.content += text;
    keepAtEnd(() => shown.text.append(text));
  }
  if (choice?.finish_reason) said.reason = choice.finish_reason;
  if (chunk.usage) said.usage = chunk.usage;
  if (chunk.scope?.no_text) said.noText = chunk.scope.no_text;
  if (chunk.scope) cache.show(chunk.scope);
}

function finish(said, shown) {
  running = null;
  shown.item.removeAttribute("aria-busy");
  cache.end();
  showError(said.fault);
  // An empty answer is one too: a message may hold facts alone.
  if (said.content || (!said.fault && said.reason !== "stopped")) {
    messages.push({ role: "assistant", content: said.content });
    save("messages", messages);
    shown.foot.append(make("span", "note", footnote(said)));
  } else {
    shown.item.remove();
    takeBack();
  }
  busy(false);
}

function footnote({ content, reason, noText, usage, seconds }) {
  const empty = ["an empty answer", noText].filter(Boolean).join(": ");
  const words = [content.trim() ? "" : empty, REASONS[reason] ?? reason];
  if (usage) {
    const each = usage.completion_tokens / seconds;
    words.unshift(`${usage.completion_tokens} tokens, ${each.toFixed(each < 10 ? 1 : 0)} per second`);
  }
  return words.filter(Boolean).join(", ");
}

// A message that got no answer goes back to where it was written.
function takeBack() {
  const { content } = messages.pop();
  save("messages", messages);
  find("messages").lastElementChild.remove();
  find("welcome").hidden = messages.length > 0;
  if (!find("message").value) find("message").value = content;
  fit();
}

function again() {
  if (running || messages.at(-1)?.role !== "assistant") return;
  messages.pop();
  find("messages").lastElementChild.remove();
  answer();
}

function send() {
  const field = find("message");
  const content = field.value.trim();
  if (!content || running) return;
  field.value = "";
  fit();
  messages.push({ role: "user", content });
  save("messages", messages);
  addMessage(messages.at(-1));
  answer();
}

function stop() {
  running?.abort();
}

function busy(is) {
  find("send").hidden = is;
  find("stop").hidden = !is;
  find("new").disabled = is;
  markLast();
  if (!is && document.activeElement === document.body) find("message").focus();
}

function showError(fault) {
  const line = find("error");
  line.hidden = !fault;
  line.textContent = fault ? (fault instanceof ApiError ? fault.message : `This page failed: ${fault}`) : "";
  if (fault?.status === 401) openSettings();
}

// -- the rest of the page ---------------------------------------------------------------

function fit() {
  const field = find("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function openSettings() {
  const form = find("settings").querySelector("form");
  for (const field of form.querySelectorAll("[name]")) {
    field.value = field.name === "key" ? key : (settings[field.name] ?? "");
  }
  find("settings").showModal();
}

function keepSettings({ target }) {
  const before = key;
  for (const [name, value] of new FormData(target)) {
    if (name === "key") key = value.trim();
    else settings[name] = value.trim();
  }
  save("settings", settings);
  showError();
  if (key !== before || !model) connect();
}

async function connect() {
  try {
    model = await findModel(key);
    find("model").textContent = find("model").title = model.id;
    const known = model.scope ?? {};
    find("policies").replaceChildren(
      ...(known.policies ?? []).map((name) => Object.assign(make("option"), { value: name })),
    );
    for (const name of ["policy", "budget"]) {
      if (known[name]) document.querySelector(`[name=${name}]`).placeholder = String(known[name]);
    }
    find("example-line").hidden = !known.example;
    find("example").onclick = () => {
      find("message").value = known.example;
      send();
    };
  } catch (fault) {
    find("model").textContent = "not connected";
    showError(fault);
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  find("theme").textContent = theme === "dark" ? "Light" : "Dark";
  find("theme").title = `Change to ${theme === "dark" ? "light" : "dark"} colours`;
}

function startNew() {
  messages = [];
  save("messages", messages);
  showError();
  showAll();
  cache.clear();
  find("message").focus();
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
find("message").addEventListener("input", fit);
find("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("settings").open) stop();
});
find("stop").addEventListener("click", stop);
find("new").addEventListener("click", startNew);
find("open-settings").addEventListener("click", openSettings);
find("settings").addEventListener("submit", keepSettings);
find("cancel").addEventListener("click", () => find("settings").close());
find("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  save("theme", theme);
  setTheme(theme);
});
dark.addEventListener("change", () => setTheme(load("theme", dark.matches ? "dark" : "light")));

setTheme(load("theme", dark.matches ? "dark" : "light"));
find("cache").open = innerWidth > 860 || innerHeight > 700;
cache.clear();
showAll();
find("message").focus();
connect();
