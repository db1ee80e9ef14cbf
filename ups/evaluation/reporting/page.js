// Films: a button, a slider, and a clock. A film plays by itself only while it can be seen, and
// never where the reader has asked for less motion.
"use strict";
document.body.classList.add("alive");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const film of document.querySelectorAll(".film")) {
  const times = JSON.parse(film.dataset.times);
  const [button, slider, clock] = ["button", "input", "output"].map((n) => film.querySelector(n));
  const frames = film.querySelectorAll(".frame");
  let timer = 0;
  const show = (index) => {
    slider.value = index;
    clock.textContent = times[index];
    const place = times.length > 1 ? (100 * index) / (times.length - 1) : 0;
    for (const frame of frames) frame.style.backgroundPosition = `0 ${place}%`;
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "▶";
    button.setAttribute("aria-label", "play");
  };
  const play = () => {
    if (timer) return;
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "pause");
    timer = setInterval(() => show((Number(slider.value) + 1) % times.length), 160);
  };
  let asked = still ? "pause" : "play";
  button.addEventListener("click", () => {
    asked = timer ? "pause" : "play";
    timer ? stop() : play();
  });
  slider.addEventListener("input", () => {
    asked = "pause";
    stop();
    show(Number(slider.value));
  });
  new IntersectionObserver((seen) => {
    for (const one of seen) one.isIntersecting && asked === "play" ? play() : stop();
  }).observe(film);
}
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
