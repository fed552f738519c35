"use strict";
// Without this script every picture and every value is there already, side by side and in tables.
document.documentElement.classList.add("js");

const memory = {
  read(key) { try { return JSON.parse(sessionStorage.getItem(key)); } catch { return null; } },
  write(key, value) { try { sessionStorage.setItem(key, JSON.stringify(value)); } catch { /* a file may have none */ } },
};
const pageKey = "cloudbooth:" + document.title.split(":")[0];

// A slider that stood at its newest value before a reload stands there after it too.
function remembered(slider, name) {
  const key = pageKey + ":" + name, kept = memory.read(key);
  if (kept !== null && !kept.newest) slider.value = Math.min(kept.at, Number(slider.max));
  slider.addEventListener("input", () =>
    memory.write(key, { at: Number(slider.value), newest: slider.value === slider.max }));
}

document.querySelectorAll("figure.samples").forEach((figure) => {
  const frames = [...figure.querySelectorAll(".frames > li")], slider = figure.querySelector("input");
  const show = (at) => frames.forEach((frame, index) => frame.classList.toggle("on", index === at));
  if (!slider) { show(0); return; }
  const output = figure.querySelector("output");
  const update = () => {
    const at = Number(slider.value), text = "step " + frames[at].dataset.step;
    show(at);
    output.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  remembered(slider, figure.id);
  slider.addEventListener("input", update);
  update();
});

document.querySelectorAll("figure.chart").forEach((figure, index) => {
  const readings = JSON.parse(figure.dataset.readings);
  const slider = figure.querySelector("input"), output = figure.querySelector("output");
  const drawings = [...figure.querySelectorAll("svg")];
  const update = () => {
    const [step, text] = readings[Number(slider.value)];
    output.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    for (const svg of drawings) {
      const { low, high, left, width } = svg.dataset;
      const x = Number(left) + (step - low) / (high - low) * width, cursor = svg.querySelector(".cursor");
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.setAttribute("visibility", "visible");
    }
  };
  for (const svg of drawings) {
    const follow = (event) => {
      const box = svg.getBoundingClientRect(), { low, high, left, width } = svg.dataset;
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const step = Number(low) + (x - left) / width * (high - low);
      const far = (at) => Math.abs(readings[at][0] - step);
      let nearest = 0;
      for (let at = 1; at < readings.length; at++) if (far(at) < far(nearest)) nearest = at;
      slider.value = nearest;
      update();
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
  }
  remembered(slider, "chart-" + index);
  slider.addEventListener("input", update);
  if (slider.value !== slider.max) update();
});

const reloadS = Number(document.body.dataset.reloadS);
if (reloadS) {
  const button = document.getElementById("pause");
  let paused = memory.read(pageKey + ":paused") === true;
  const tell = () => {
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
  };
  button.addEventListener("click", () => {
    paused = !paused;
    memory.write(pageKey + ":paused", paused);
    tell();
  });
  tell();
  setInterval(() => { if (!paused && !document.hidden) location.reload(); }, reloadS * 1000);
}
