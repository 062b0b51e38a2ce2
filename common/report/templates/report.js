"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const canvas = byId("canvas"), message = byId("message");
  let viewer = null, chosen = 0, turn = 0;

  // Elements; text is never read as HTML.
  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function drawn(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const colour = (label) => `rgb(${label.colour.join(", ")})`;
  const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));
  const percent = (share) => `${short(100 * share)} %`;

  // The viewer
  function colours() {
    const rgb = (channel) => [0, ...data.labels.map((label) => label.colour[channel])];
    return {
      R: rgb(0), G: rgb(1), B: rgb(2),
      A: [0, ...data.labels.map(() => 255)],
      I: [0, ...data.labels.map((label) => label.id)],
      labels: ["", ...data.labels.map((label) => label.name)],
    };
  }

  function script(href) {
    return new Promise((resolve, reject) => {
      const made = element("script");
      made.addEventListener("load", resolve);
      made.addEventListener("error", () => reject(new Error(`${href} is missing beside this page`)));
      made.src = href;
      document.head.append(made);
    });
  }

  async function start() {
    await script(data.script);
    const made = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.55, 0.6, 0.65, 1],
      crosshairWidth: 0.25,
      isCornerOrientationText: true,
      dragAndDropEnabled: false,
      multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      show3Dcrosshair: false,
      isOrientCube: false,
      logLevel: "error",
    });
    await made.attachToCanvas(canvas);
    made.setMultiplanarLayout(layout());
    made.setSliceType(made.sliceTypeMultiplanar);
    made.setRenderAzimuthElevation(120, 15);
    return made;
  }

  const narrow = window.matchMedia("(max-width: 48rem)");
  const layout = () => niivue.MULTIPLANAR_TYPE[narrow.matches ? "GRID" : "ROW"];
  const opacity = () => (byId("mask").checked ? byId("opacity").value / 100 : 0);

  async function show(index) {
    const mine = ++turn;
    const texts = ["image", "label"].map((kind) => byId(`${kind}-${index}`)?.textContent);
    message.textContent = texts[0] ? "" : "No preview of this pair: open its full files with another viewer.";
    canvas.style.visibility = texts[0] ? "visible" : "hidden";
    if (!texts[0]) return;
    const load = (base64, name, more) => niivue.NVImage.loadFromBase64({ base64, name, ...more });
    const image = await load(texts[0], "image.nii.gz", { colormap: "gray", cal_min: 0, cal_max: 1 });
    const label = await load(texts[1], "label.nii.gz", { opacity: opacity() });
    if (mine !== turn) return; // another pair was chosen meanwhile
    label.setColormapLabel(colours());
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    viewer.addVolume(image);
    viewer.addVolume(label);
    viewer.setOpacity(1, opacity());
    canvas.dataset.pair = index;
  }

  function fade() {
    byId("opacity").disabled = !byId("mask").checked;
    if (viewer && viewer.volumes.length > 1) viewer.setOpacity(1, opacity());
  }

  // Facts
  function facts(pair) {
    const rows = [
      ["from", pair.kind], ["details", pair.details], ["split", pair.split],
      ["person", pair.person === pair.id ? null : pair.person],
      ["seed", pair.seed], ["volume", pair.volume], ["seconds", pair.seconds], ["gate", pair.gate],
      ["voxels", pair.shape.join(" x ")], ["preview", pair.factor > 1 ? `1 voxel for ${pair.factor} x ${pair.factor} x ${pair.factor}` : null],
      ["all labels", pair.total_ml === null ? null : `${short(pair.total_ml)} ml`],
      ...data.labels.map(({ name }) => [name, name in pair.volumes ? `${short(pair.volumes[name])} ml` : null]),
      ["absent", pair.absent.join(", ")],
    ];
    const parts = [];
    for (const [key, value] of rows) {
      if (value !== null && value !== undefined && value !== "") parts.push(element("dt", key), element("dd", value));
    }
    const files = element("dd");
    for (const [name, href] of [["image", pair.image], ["mask", pair.label]]) {
      if (!href) continue;
      const link = element("a", name);
      link.href = href;
      files.append(link, " ");
    }
    byId("facts").replaceChildren(...parts, element("dt", "full files"), files);
  }

  function strip(name, values, value, range, said, fill) {
    const all = [...values, ...(range || [])];
    const low = Math.min(...all), high = Math.max(...all), room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    const at = (x) => `${(100 * (x - low + room)) / (high - low + 2 * room)}%`;
    const track = element("div", undefined, "track");
    const put = (className, x) => {
      const mark = element("i", undefined, className);
      mark.style.left = at(x);
      track.append(mark);
      return mark;
    };
    if (range) put("band", range[0]).style.right = `calc(100% - ${at(range[1])})`;
    values.forEach((x) => put("tick", x));
    put("dot", value).style.background = fill;
    const row = element("div", undefined, "strip");
    row.append(element("span", name), track, element("span", said, "value"));
    return row;
  }

  function volumes(pair) {
    const rows = [];
    if (pair.total_ml !== null) {
      const totals = data.pairs.map((other) => other.total_ml).filter((ml) => ml !== null);
      rows.push(strip("all labels", totals, pair.total_ml, data.total_ml, `${short(pair.total_ml)} ml`, "#fff"));
    }
    for (const label of data.labels) {
      const share = pair.shares[label.name];
      if (share === undefined) continue; // the container
      const shares = data.pairs.map((other) => other.shares[label.name]);
      const ml = pair.volumes[label.name];
      const said = percent(share) + (ml === undefined ? "" : `, ${short(ml)} ml`);
      rows.push(strip(label.name, shares, share, label.range, said, colour(label)));
    }
    byId("volumes").replaceChildren(...rows);
  }

  // Histograms
  function density(pair) {
    const counts = Object.values(pair.histograms);
    if (!counts.length) return null;
    const sums = Array.from({ length: data.bins }, (_, bin) => counts.reduce((sum, row) => sum + row[bin], 0));
    const all = sums.reduce((sum, count) => sum + count, 0);
    return sums.map((count) => count / all);
  }

  const densities = data.pairs.map(density);
  const known = densities.filter((row) => row !== null);
  const reach = (pick) => !known.length ? [] : Array.from({ length: data.bins }, (_, bin) => pick(...known.map((row) => row[bin])));
  const least = reach(Math.min), most = reach(Math.max);

  function plot(id, paint) {
    const svg = byId(id), width = svg.clientWidth || 400, height = svg.clientHeight || 192, foot = 20;
    const x = (bin) => 10 + ((width - 20) * (bin + 0.5)) / data.bins;
    const y = (part) => height - foot - (height - foot - 10) * part;
    const path = (row) => row.map((part, bin) => `${x(bin).toFixed(1)},${y(part).toFixed(1)}`);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      const anchor = value === 0 ? "start" : value === 1 ? "end" : "middle";
      svg.append(drawn("text", { x: 10 + (width - 20) * value, y: height - 5, "text-anchor": anchor }, value));
    }
    paint((row, attributes) => svg.append(drawn("polyline", { class: "line", points: path(row).join(" "), ...attributes })),
      (low, high) => svg.append(drawn("polygon", { class: "band", points: [...path(low), ...path(high).reverse()].join(" ") })));
  }

  function intensities(pair, index) {
    const peak = Math.max(...most, 1e-9), scaled = (row) => row.map((part) => part / peak);
    plot("all", (line, band) => {
      if (known.length) band(scaled(least), scaled(most));
      if (densities[index]) line(scaled(densities[index]), {});
    });
    plot("label", (line) => {
      for (const label of data.labels) {
        const row = pair.histograms[label.name] || [];
        const top = Math.max(0, ...row);
        if (top) line(row.map((count) => count / top), { style: `stroke: ${colour(label)}` });
      }
    });
  }

  // Choosing
  function choose(index) {
    chosen = (index + data.pairs.length) % data.pairs.length;
    const pair = data.pairs[chosen];
    byId("pair").value = String(chosen);
    byId("place").textContent = `${chosen + 1} of ${data.pairs.length}`;
    document.querySelectorAll("[data-pair]").forEach((link) => {
      link.closest("tr")?.classList.toggle("chosen", link.dataset.pair === String(chosen));
    });
    facts(pair);
    volumes(pair);
    intensities(pair, chosen);
    if (viewer) show(chosen).catch(failed);
  }

  function failed(error) {
    message.textContent = `The viewer cannot run here (${error.message}). The facts below do not need it.`;
    canvas.style.visibility = "hidden";
  }

  byId("previous").addEventListener("click", () => choose(chosen - 1));
  byId("next").addEventListener("click", () => choose(chosen + 1));
  byId("pair").addEventListener("change", (event) => choose(Number(event.target.value)));
  byId("mask").addEventListener("change", fade);
  byId("opacity").addEventListener("input", fade);
  byId("pairs").addEventListener("click", (event) => {
    const link = event.target.closest("[data-pair]");
    if (link) choose(Number(link.dataset.pair));
  });
  window.addEventListener("resize", () => intensities(data.pairs[chosen], chosen));
  choose(0);
  message.textContent = "Loading the viewer";
  // The page is painted first: a viewer takes seconds to start where there is no graphics card.
  new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))).then(start).then((made) => {
    viewer = made;
    narrow.addEventListener("change", () => viewer.setMultiplanarLayout(layout()));
    return show(chosen);
  }).catch(failed);
})();
