"use strict";
(() => {
  const copy = document.getElementById("copy"), command = document.getElementById("command");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
      copy.textContent = "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });

  // A box that holds more than it shows says so.
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) target.classList.toggle("more", target.scrollWidth > target.clientWidth + 1);
  });
  for (const box of document.querySelectorAll(".scroll")) resized.observe(box);

  const data = document.getElementById("images");
  if (!data) return;
  const { names, places } = JSON.parse(data.textContent);
  const tip = document.getElementById("tip"), thumbnail = tip.querySelector(".t"), name = document.getElementById("tip-name");
  const maps = [...document.querySelectorAll(".map")].map((svg) => ({
    svg,
    ring: svg.querySelector(".ring"),
    points: [...svg.querySelectorAll("use")].map((use) => ({ x: use.x.baseVal.value, y: use.y.baseVal.value })),
  }));
  let current = -1;

  const show = (map, index) => {
    current = index;
    for (const { ring, points } of maps) {
      ring.setAttribute("cx", points[index].x);
      ring.setAttribute("cy", points[index].y);
      ring.setAttribute("visibility", "visible");
    }
    thumbnail.style.cssText = places[index];
    name.textContent = names[index];
    tip.hidden = false;
    const box = map.svg.getBoundingClientRect(), scale = box.width / map.svg.viewBox.baseVal.width;
    const x = box.left + map.points[index].x * scale, y = box.top + map.points[index].y * scale;
    tip.style.left = `${Math.max(4, x + 16 + tip.offsetWidth > innerWidth ? x - 16 - tip.offsetWidth : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(y - 16, innerHeight - tip.offsetHeight - 4))}px`;
  };
  const hide = () => {
    tip.hidden = true;
    for (const { ring } of maps) ring.setAttribute("visibility", "hidden");
  };
  // The nearest image for which `cost` is finite; it gets the offset from (x, y).
  const nearest = (points, x, y, cost) => {
    let best = -1, least = Infinity;
    points.forEach((point, i) => {
      const value = cost(point.x - x, point.y - y);
      if (value < least) { least = value; best = i; }
    });
    return best;
  };
  const ahead = {
    ArrowRight: (dx, dy) => (dx > 0 && dx >= Math.abs(dy) ? dx * dx + dy * dy : Infinity),
    ArrowLeft: (dx, dy) => (dx < 0 && -dx >= Math.abs(dy) ? dx * dx + dy * dy : Infinity),
    ArrowDown: (dx, dy) => (dy > 0 && dy >= Math.abs(dx) ? dx * dx + dy * dy : Infinity),
    ArrowUp: (dx, dy) => (dy < 0 && -dy >= Math.abs(dx) ? dx * dx + dy * dy : Infinity),
  };

  for (const map of maps) {
    const point = (event) => {
      const box = map.svg.getBoundingClientRect(), scale = map.svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      const index = nearest(map.points, x, y, (dx, dy) => (dx * dx + dy * dy < 225 ? dx * dx + dy * dy : Infinity));
      if (index < 0) hide(); else show(map, index);
    };
    map.svg.addEventListener("pointermove", point);
    map.svg.addEventListener("pointerdown", point);
    map.svg.addEventListener("pointerleave", hide);
    map.svg.addEventListener("blur", hide);
    map.svg.addEventListener("focus", () => {
      if (map.svg.matches(":focus-visible")) show(map, Math.max(current, 0));
    });
    map.svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!(event.key in ahead)) return;
      event.preventDefault();
      const from = map.points[Math.max(current, 0)];
      const index = nearest(map.points, from.x, from.y, ahead[event.key]);
      if (index >= 0) show(map, index);
    });
  }

  const buttons = [...document.querySelectorAll("button.class")];
  const marked = [...document.querySelectorAll(".maps use, .maps .over")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const alone = button.getAttribute("aria-pressed") === "false";
      for (const other of buttons) other.setAttribute("aria-pressed", String(alone && other === button));
      for (const item of marked) item.classList.toggle("dim", alone && item.dataset.k !== button.dataset.k);
    });
  }
})();
