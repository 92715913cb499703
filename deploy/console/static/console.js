"use strict";
// Everything that is inserted as HTML comes escaped from the console's own templates.

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=console-token]").content;
const EVERY = 2000; // milliseconds between two looks at the figures
const RATE = 16000; // samples a second of a recording that is sent
const COLUMNS = 500; // of a drawn waveform
let chosen = null; // the file or recording to send
let chosenUrl = null;
let recorder = null;
let state = null; // of the server's models, as the first figures said it

async function call(path, options = {}) {
  const headers = { "X-Console-Token": token, ...options.headers };
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the console does not answer: was it ended?");
  }
  const text = await reply.text();
  if (reply.ok) return [text, reply];
  let message = text;
  try {
    message = JSON.parse(text).message;
  } catch {
    // not JSON: shown as it is
  }
  throw new Error(message);
}

function selected(id) {
  return $(id).selectedOptions[0].dataset;
}

// What the chosen model takes.

function adapt() {
  const { kind, explains, example } = selected("model");
  const files = kind !== "text";
  $("drop").hidden = !files;
  $("record-row").hidden = kind !== "audio" && kind !== "any";
  $("text-row").hidden = kind === "picture" || kind === "audio";
  $("text-label").textContent = { text: "Text", tensors: "JSON" }[kind] || "Text or JSON";
  $("explain-row").hidden = explains !== "true";
  $("file").accept = { picture: "image/*", audio: "audio/*,video/*" }[kind] || "";
  const text = $("text");
  if (!text.value || text.dataset.example === text.value) {
    text.value = text.dataset.example = example;
  }
  if (!files) choose(null);
  for (const option of $("other").options) {
    const { model, version } = selected("model");
    const itself = option.dataset.model === model && option.dataset.version === version;
    option.hidden = option.disabled = Boolean(option.dataset.kind) && (option.dataset.kind !== kind || itself);
  }
  if ($("other").selectedOptions[0].disabled) $("other").selectedIndex = 0;
}

function choose(file) {
  if (chosenUrl) URL.revokeObjectURL(chosenUrl);
  chosen = file;
  chosenUrl = file && URL.createObjectURL(file);
  const shown = file ? file.type.split("/")[0] : "";
  for (const [id, is] of [["picture", shown === "image"], ["sound", /audio|video/.test(shown)]]) {
    $(id).hidden = !is;
    if (is) $(id).src = chosenUrl;
    else $(id).removeAttribute("src");
  }
  $("chosen").textContent = file ? `${file.name || "recording"}, ${file.size.toLocaleString("en")} bytes` : "";
  if (!file) $("file").value = "";
}

// Recordings: whatever the browser records becomes 16-bit mono WAV, which every handler reads.

async function samples(blob) {
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
  return audio.getChannelData(0);
}

function wav(values) {
  const view = new DataView(new ArrayBuffer(44 + 2 * values.length));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * values.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * values.length, true);
  values.forEach((v, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, v)), true));
  return new File([view], "recording.wav", { type: "audio/wav" });
}

async function record() {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      $("record").textContent = "Record";
      try {
        choose(wav(await samples(new Blob(parts))));
        $("recording").textContent = "Recorded.";
      } catch {
        $("recording").textContent = "Nothing was recorded: speak for a second at least.";
      }
    };
    recorder.start();
    $("record").textContent = "Stop recording";
    $("recording").textContent = "Recording…";
  } catch (error) {
    recorder = null;
    $("recording").textContent = `No microphone: ${error.message}`;
  }
}

// The question and its answers.

function body() {
  const { kind } = selected("model");
  const text = $("text").value;
  if (chosen && kind !== "text") return [chosen, chosen.type || "application/octet-stream"];
  if (kind === "picture" || kind === "audio" || !text.trim()) return [null, ""];
  if (kind === "text") return [text, "text/plain; charset=utf-8"];
  try {
    JSON.parse(text);
    return [text, "application/json"];
  } catch (error) {
    if (kind === "tensors") throw new Error(`that is no JSON: ${error.message}`);
    return [text, "text/plain; charset=utf-8"];
  }
}

async function ask(event) {
  event.preventDefault();
  const { model, version, explains } = selected("model");
  const other = selected("other");
  const query = new URLSearchParams({ model, version });
  if (other.model) {
    query.set("other", other.model);
    query.set("other_version", other.version);
  }
  if (explains === "true" && $("explain").checked) query.set("explain", "1");
  $("send").disabled = true;
  $("said").className = "";
  $("said").textContent = "Asking…";
  try {
    const [content, type] = body();
    if (content === null) throw new Error("choose a file or type a text first");
    const options = { method: "POST", body: content, headers: { "Content-Type": type } };
    const [html] = await call(`/ask?${query}`, options);
    $("answers").innerHTML = html;
    $("said").textContent = "Answered below.";
    await draw(content);
  } catch (error) {
    $("answers").replaceChildren();
    $("said").className = "bad";
    $("said").textContent = error.message;
  } finally {
    $("send").disabled = false;
  }
}

async function draw(content) {
  for (const bar of $("answers").querySelectorAll("[data-share]")) {
    bar.style.width = `${100 * bar.dataset.share}%`;
  }
  for (const figure of $("answers").querySelectorAll(".boxed")) {
    const [picture, svg] = figure.children;
    picture.onload = () => {
      svg.setAttribute("viewBox", `0 0 ${picture.naturalWidth} ${picture.naturalHeight}`);
      svg.setAttribute("font-size", picture.naturalWidth / 14);
    };
    picture.src = chosenUrl;
  }
  const waves = $("answers").querySelectorAll(".wave");
  if (!waves.length || !(content instanceof Blob)) return;
  let values;
  try {
    values = await samples(content);
  } catch {
    return; // a format that this browser does not decode: the segments stand alone
  }
  for (const wave of waves) {
    const each = (RATE * wave.dataset.seconds) / COLUMNS;
    let path = "";
    for (let column = 0; column < COLUMNS; column++) {
      const part = values.subarray(column * each, (column + 1) * each);
      const most = part.reduce((peak, v) => Math.max(peak, Math.abs(v)), 0.01);
      const x = ((column + 0.5) * 1000) / COLUMNS;
      path += `M${x} ${60 - 58 * most}V${60 + 58 * most}`;
    }
    wave.querySelector(".signal").setAttribute("d", path);
  }
}

// Figures, and a new default.

async function look() {
  if (document.hidden) return;
  try {
    const [html, reply] = await call("/live");
    const scroll = $("live").querySelector(".scroll");
    const [left, focused] = [scroll.scrollLeft, scroll === document.activeElement];
    $("live").innerHTML = html;
    $("live").querySelector(".scroll").scrollLeft = left;
    if (focused) $("live").querySelector(".scroll").focus({ preventScroll: true });
    $("live-failed").hidden = true;
    const now = reply.headers.get("X-Console-State");
    $("changed").hidden = state === null || state === now;
    state ??= now;
  } catch (error) {
    $("live-failed").hidden = false;
    $("live-failed").textContent = error.message;
  }
}

function confirmed(title, text, yes) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  const dialog = $("confirm");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
  });
}

async function promote({ model, version, from, word, file }) {
  const first = file ? `${file} is loaded, and ` : "";
  const text = `Requests to ${model} that name no version are answered by ${from} now; ${first}${version} will answer them.`;
  if (!(await confirmed(`${word}: ${model} ${version}?`, text, word))) return;
  $("promoted").className = "";
  $("promoted").textContent = "Changing…";
  try {
    const [html] = await call(`/${file ? "restore" : "default"}?${new URLSearchParams({ model, version })}`, { method: "POST" });
    $("models").innerHTML = html;
    for (const option of document.querySelectorAll("option[data-model]")) {
      if (option.dataset.model === model) {
        const mark = option.dataset.version === version ? " (default)" : "";
        option.textContent = `${model} ${option.dataset.version}${mark}`;
      }
    }
    $("promoted").textContent = `${model} ${version} is the default now.`;
    if (!file) state = null; // it was us; a version that came is not yet in the lists
    $("models-title").focus();
    await look();
  } catch (error) {
    $("promoted").className = "bad";
    $("promoted").textContent = error.message;
    $("models-title").focus();
  }
}

function start() {
  setInterval(look, EVERY);
  document.addEventListener("visibilitychange", look);
  look();
  $("reload").onclick = () => location.reload();
  $("confirm-yes").onclick = () => $("confirm").close("yes");
  $("confirm-no").onclick = () => $("confirm").close("");
  document.addEventListener("click", ({ target }) => {
    if (target.matches(".promote")) promote(target.dataset);
    if (target.matches(".play")) {
      $("sound").currentTime = target.dataset.start;
      $("sound").play();
    }
  });
  if (!$("ask")) return;
  $("ask").onsubmit = ask;
  $("model").onchange = adapt;
  $("record").onclick = record;
  $("file").onchange = () => choose($("file").files[0] || null);
  const drop = $("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    if (!drop.hidden && event.clipboardData.files.length) choose(event.clipboardData.files[0]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });
  adapt();
}

start();
