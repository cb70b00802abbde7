"use strict";
(async () => {
  const inputs = JSON.parse(document.getElementById("data").textContent);
  const isText = document.body.dataset.kind === "text";
  const panel = document.getElementById("panel");
  const headChoice = document.getElementById("head");
  let head = -1; // of which parts, weights, sizes and centres are shown; -1: the mean of all
  let show = "weights"; // what lies over a picture
  let kept = null; // {input, layer, pool} that was clicked, focused or named by the address

  // ---- Numbers -----------------------------------------------------------------------------------------------------

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint32Array(await new Response(stream).arrayBuffer());
  }

  for (const input of inputs) {
    for (const layer of input.pools) {
      const numbers = await unpack(layer.parts);
      const rows = layer.heads * layer.count;
      const total = (numbers.length - rows) / 2;
      layer.begins = new Uint32Array(rows + 1);
      for (let row = 0; row < rows; row++) layer.begins[row + 1] = layer.begins[row] + numbers[row];
      layer.keys = numbers.subarray(rows, rows + total);
      layer.values = numbers.subarray(rows + total);
    }
  }
  const layersOf = (choice) => inputs[choice.input].pools;
  const layerOf = (choice) => layersOf(choice)[choice.layer];

  /** What has entered a pool, the largest part first: [[index, part], ...]. */
  function parts(layer, pool, which = head) {
    const found = new Map();
    const heads = which < 0 ? [...Array(layer.heads).keys()] : [which];
    for (const each of heads) {
      const row = each * layer.count + pool;
      for (let at = layer.begins[row]; at < layer.begins[row + 1]; at++) {
        found.set(layer.keys[at], (found.get(layer.keys[at]) ?? 0) + layer.values[at] / 100000 / heads.length);
      }
    }
    return [...found].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  /** Of numbers of each head and index that of the chosen head, or the mean of all. */
  function ofHeads(numbers, index, which = head) {
    if (which >= 0) return numbers[which][index];
    return numbers.reduce((sum, each) => sum + each[index], 0) / numbers.length;
  }
  const variety = (row) => Math.exp(-row.reduce((sum, [, part]) => sum + part * Math.log(part), 0));
  const percent = (part) => (part < 0.0005 ? "under 0.1\u00a0%" : `${(100 * part).toFixed(part >= 0.0995 ? 0 : 1)}\u00a0%`);
  const several = (noun) => noun + (noun.endsWith("ch") ? "es" : "s");
  const largest = (numbers) => numbers.reduce((most, each) => Math.max(most, each), 0);
  const everySize = inputs.flatMap((input) => input.pools.flatMap((layer) => layer.sigma?.flat() ?? []));
  const largestSize = largest(everySize);

  // ---- Words -------------------------------------------------------------------------------------------------------

  const members = (numbers, value) => numbers.flatMap((each, index) => (each === value ? [index] : []));
  const place = (grid, index) => [Math.floor(index / grid[1]), index % grid[1]];

  /** What one of the tokens is called that come into a layer ("In") or out of it ("Out"). */
  function nameOf(input, layer, side, index) {
    if (layer[`grid${side}`]) {
      const [row, column] = place(layer[`grid${side}`], index);
      return `row ${row}, column ${column}`;
    }
    return members(layer[`token${side}`], index).map((each) => inputs[input].tokens[each]).join(" ");
  }

  const short = (input, layer, index) => nameOf(input, layer, "In", index).replace(/^row (\d+), column (\d+)$/, "($1, $2)");

  function title(choice) {
    const layer = layerOf(choice);
    const name = nameOf(choice.input, layer, "Out", choice.pool);
    return `${layer.name}: ${isText ? `“${name}”` : layer.count === 1 ? "the whole map" : name}`;
  }

  /** From a pool's place to its centre, in words or with arrows. */
  function centre(layer, pool, which = head, arrows = false) {
    if (!layer.offsets) return "–";
    const offset = layer.offsets[0][pool].map((_, dimension) => ofHeads(layer.offsets.map((each) => each.map((one) => one[dimension])), pool, which));
    const words = offset.length === 1 ? [["after", "before"]] : [["below", "above"], ["to the right of", "to the left of"]];
    const signs = offset.length === 1 ? ["→←"] : ["↓↑", "→←"];
    return offset.map((each, dimension) => {
      const [way, length] = [each < 0 ? 1 : 0, Math.abs(each).toFixed(2)];
      return arrows ? `${signs[dimension][way]} ${length}` : `${length} ${words[dimension][way]}`;
    }).join(arrows ? " " : " and ");
  }

  function sentences(choice) {
    const { layer, pool } = { layer: layerOf(choice), pool: choice.pool };
    const row = parts(layer, pool);
    if (!row.length) return ["It is not pooled."]; // what an attention mask hides of an image
    const whose = head < 0 ? (layer.heads > 1 ? `, the mean of ${layer.heads} heads` : "") : `, head ${head}`;
    const first = row.slice(0, 3).map(([index, part]) => {
      const name = nameOf(choice.input, layer, "In", index);
      return isText ? `“${name}” ${percent(part)}` : `${name}: ${percent(part)}`;
    });
    const rest = row.length - first.length;
    const told = [`Holds ${first.join(isText ? ", " : "; ")}${rest ? ` and ${rest} more` : ""}${whose}.`];
    const size = layer.sigma && ofHeads(layer.sigma, pool).toFixed(2);
    if (size) {
      const own = layer.stride > 1 ? `the middle of its ${several(layer.unit)}` : `its ${layer.unit}`;
      const where = layer.offsets ? `its centre lies ${centre(layer, pool)} ${own}` : "its centre does not move";
      told.push(`Its size σ is ${size} ${size === "1.00" ? layer.unit : several(layer.unit)}; ${where}.`);
    }
    told.push(`It is as varied as ${variety(row).toFixed(1)} equal parts.`);
    if (layer.stride > 1 && layer.count > 1) {
      const count = isText ? members(layer.tokenOut, pool).length : null;
      const square = `up to ${layer.stride} x ${layer.stride} ${several(layer.unit)}`;
      const what = !isText ? square : count === 1 ? "1 token" : `${count} tokens`;
      told.push(`It stands for ${what} from here on.`);
    }
    return told;
  }

  function make(kind, properties = {}, ...children) {
    const element = document.createElement(kind);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function fillPanel(choice) {
    panel.hidden = !choice;
    if (!choice) return;
    const { layer, pool } = { layer: layerOf(choice), pool: choice.pool };
    const row = parts(layer, pool);
    const list = make("ol", { "aria-label": "What has entered the pool" });
    for (const [index, part] of row.slice(0, 6)) {
      const bar = make("i");
      bar.style.setProperty("--share", (100 * part).toFixed(1));
      list.append(make("li", {}, make("b", {}, nameOf(choice.input, layer, "In", index)), bar, make("span", {}, percent(part))));
    }
    const others = row.slice(6);
    if (others.length) {
      const sum = others.reduce((total, [, part]) => total + part, 0);
      list.append(make("li", { className: "rest" }, `and ${others.length} more, ${percent(sum)} together`));
    }
    const body = make("tbody");
    for (let each = 0; each < layer.heads; each++) {
      const own = parts(layer, pool, each);
      body.append(make("tr", {},
        make("th", { scope: "row" }, `${each}`),
        make("td", {}, layer.sigma ? layer.sigma[each][pool].toFixed(2) : "–"),
        make("td", {}, centre(layer, pool, each, true)),
        make("td", {}, variety(own).toFixed(1)),
        make("td", {}, own.length ? `${short(choice.input, layer, own[0][0])} ${percent(own[0][1])}` : "–")));
    }
    const names = ["head", "size σ", "centre", "as varied as", "largest part"];
    const table = make("table", { className: "heads" },
      make("thead", {}, make("tr", {}, ...names.map((each) => make("th", { scope: "col" }, each)))), body);
    const words = make("div", { id: "words" }, make("h3", {}, title(choice)), make("p", {}, sentences(choice).join(" ")));
    // A cell of a text is read out when it is focused; the map of an image is one element, whose words change.
    words.setAttribute("aria-live", isText ? "off" : "polite");
    panel.replaceChildren(words, list, table);
  }

  // ---- Texts -------------------------------------------------------------------------------------------------------

  const LABEL = 92; // pixels of a layer's name
  const BAR = 19; // of the longest bar

  /** The widths of the tokens' columns, and where a line may end: between the groups of all layers. */
  function measure(input) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `14px system-ui, -apple-system, "Segoe UI", sans-serif`;
    const widths = input.tokens.map((each) => Math.min(200, Math.max(22, Math.ceil(pen.measureText(each).width * 1.04) + 10)));
    const mayEnd = input.tokens.map((_, index) => input.pools.every((layer) =>
      ["tokenIn", "tokenOut"].every((side) => layer[side][index] < 0 || layer[side][index] !== layer[side][index + 1])));
    return { widths, mayEnd };
  }

  function lines(input, width) {
    const { widths, mayEnd } = measure(input);
    const found = [];
    let begin = 0;
    while (begin < widths.length) {
      let end = begin, last = begin, sum = 0;
      while (end < widths.length && (sum + widths[end] <= width || last === begin)) {
        sum += widths[end++];
        if (mayEnd[end - 1] || end === widths.length) last = end;
      }
      found.push({ begin, end: last, widths: widths.slice(begin, last) });
      begin = last;
    }
    return found;
  }

  /** Runs of equal numbers: [[number, length], ...]. */
  function runs(numbers) {
    const found = [];
    for (const each of numbers) {
      if (found.length && found.at(-1)[0] === each && each >= 0) found.at(-1)[1]++;
      else found.push([each, 1]);
    }
    return found;
  }

  function drawText(input, number, box) {
    const width = box.clientWidth;
    input.width = width;
    input.cells = input.pools.map((layer) => Array.from({ length: layer.count }, () => []));
    input.bars = input.pools.map((layer) => Array.from({ length: layer.shares[0].length }, () => []));
    input.words = [];
    const tables = lines(input, width - LABEL).map(({ begin, end, widths }) => {
      const columns = make("colgroup", {}, ...[LABEL, ...widths].map((each) => {
        const column = make("col");
        column.style.width = `${each}px`;
        return column;
      }));
      const heads = input.tokens.slice(begin, end).map((token, index) => {
        const passes = input.pools.every((layer) => layer.tokenIn[begin + index] < 0);
        const cell = make("th", { scope: "col", className: passes ? "token passes" : "token", title: passes ? `${token} is not pooled` : token }, token);
        input.words[begin + index] = cell;
        return cell;
      });
      const table = make("table", { className: "system", role: "grid", "aria-label": `Tokens ${begin} to ${end - 1}` }, columns,
        make("thead", {}, make("tr", {}, make("td", {}), ...heads)));
      input.pools.forEach((layer, index) => {
        const told = layer.stride > 1 ? [make("small", {}, `keeps 1 of ${layer.stride}`)] : [];
        const bars = make("tr", {}, make("th", { scope: "rowgroup", className: "layer", rowSpan: 2 }, layer.name, ...told));
        for (const [key, length] of runs(layer.tokenIn.slice(begin, end))) {
          const cell = make("td", { className: "bar", colSpan: length });
          if (key >= 0) {
            cell.append(make("i"));
            input.bars[index][key].push(cell);
          }
          bars.append(cell);
        }
        const sizes = make("tr");
        for (const [pool, length] of runs(layer.tokenOut.slice(begin, end))) {
          const cell = make("td", { colSpan: length });
          if (pool >= 0) {
            Object.assign(cell, { className: "pool", tabIndex: -1 });
            cell.setAttribute("role", "gridcell");
            cell.choice = { input: number, layer: index, pool };
            input.cells[index][pool].push(cell);
          }
          sizes.append(cell);
        }
        table.append(make("tbody", {}, bars, sizes));
      });
      return table;
    });
    box.replaceChildren(...tables);
    fillText(input);
  }

  /** The bars and colours, which depend on the head. */
  function fillText(input) {
    input.pools.forEach((layer, index) => {
      const shares = layer.shares[0].map((_, key) => ofHeads(layer.shares, key));
      const most = largest(shares);
      input.bars[index].forEach((cells, key) => cells.forEach((cell) => {
        cell.firstChild.style.setProperty("--weight", (BAR * shares[key] / most).toFixed(1));
        cell.title = `weight ${shares[key].toFixed(2)}`;
      }));
      input.cells[index].forEach((cells, pool) => cells.forEach((cell) => {
        cell.style.setProperty("--size", (100 * ofHeads(layer.sigma, pool) / largestSize).toFixed(1));
        cell.setAttribute("aria-label", `${title(cell.choice)}. ${sentences(cell.choice).join(" ")}`);
      }));
    });
  }

  function markText(choice) {
    for (const each of document.querySelectorAll(".part, .chosen")) each.classList.remove("part", "strong", "chosen");
    if (!choice) return;
    const input = inputs[choice.input];
    const layer = layerOf(choice);
    const row = parts(layer, choice.pool);
    for (const [key, part] of row) {
      const words = members(layer.tokenIn, key).map((each) => input.words[each]);
      for (const cell of [...input.bars[choice.layer][key], ...words]) {
        cell.classList.add("part");
        cell.classList.toggle("strong", part / row[0][1] > 0.45);
        cell.style.setProperty("--share", (100 * part / row[0][1]).toFixed(1));
      }
    }
    for (const cell of input.cells[choice.layer][choice.pool]) cell.classList.add("chosen");
  }

  // ---- Images ------------------------------------------------------------------------------------------------------

  const [LESS, MORE] = [[33, 102, 172], [214, 69, 16]];
  const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

  function colour(fraction) {
    const at = Math.min(Math.max(fraction, 0), 1) * (SCALE.length - 1);
    const low = Math.min(Math.floor(at), SCALE.length - 2);
    return SCALE[low].map((each, index) => Math.round(each + (at - low) * (SCALE[low + 1][index] - each)));
  }

  async function load(address) {
    const picture = new Image();
    picture.src = address;
    await picture.decode();
    return picture;
  }

  /** The picture in its colours, and faint and without, for what is laid over it. */
  function plates(picture) {
    const plain = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
    const pen = plain.getContext("2d");
    pen.drawImage(picture, 0, 0);
    const grey = make("canvas", { width: plain.width, height: plain.height });
    const pixels = pen.getImageData(0, 0, plain.width, plain.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const light = 0.3 * pixels.data[at] + 0.59 * pixels.data[at + 1] + 0.11 * pixels.data[at + 2];
      pixels.data.fill(light, at, at + 3);
    }
    grey.getContext("2d").putImageData(pixels, 0, 0);
    return { plain, grey };
  }

  /** The rectangle, in fractions of the picture, of what one comes in, or of what a pool stands for. */
  function rectangle(layer, side, index) {
    const [rows, columns] = layer.gridIn;
    const step = side === "In" ? 1 : layer.stride;
    const [row, column] = place(layer[`grid${side}`], index).map((each) => each * step);
    return [column / columns, row / rows, Math.min(step, columns - column) / columns, Math.min(step, rows - row) / rows];
  }

  function drawImage(input, canvas, layer, pool) {
    const pen = canvas.getContext("2d");
    const [width, height] = [canvas.width, canvas.height];
    const fill = (side, index, style) => {
      const [x, y, w, h] = rectangle(layer, side, index);
      const [left, top] = [Math.round(x * width), Math.round(y * height)];
      pen.fillStyle = style;
      pen.fillRect(left, top, Math.round((x + w) * width) - left, Math.round((y + h) * height) - top);
    };
    pen.imageSmoothingEnabled = input.plates.plain.width > 64;
    const plain = show === "nothing" && pool === null;
    pen.drawImage(plain ? input.plates.plain : input.plates.grey, 0, 0, width, height);
    if (pool !== null) {
      pen.fillStyle = "rgb(0 0 0 / 35%)";
      pen.fillRect(0, 0, width, height);
      const row = parts(layer, pool);
      for (const [key, part] of row) fill("In", key, `rgb(255 150 40 / ${(0.12 + 0.78 * part / row[0][1]).toFixed(3)})`);
    } else if (show === "weights") {
      layer.shares[0].forEach((_, key) => {
        const times = Math.log(ofHeads(layer.shares, key)) / Math.log(3);
        const [red, green, blue] = times < 0 ? LESS : MORE;
        fill("In", key, `rgb(${red} ${green} ${blue} / ${(0.8 * Math.min(Math.abs(times), 1)).toFixed(3)})`);
      });
    } else if (show === "sizes" && layer.sigma) {
      for (let each = 0; each < layer.count; each++) {
        fill("Out", each, `rgb(${colour(ofHeads(layer.sigma, each) / largestSize).join(" ")} / 62%)`);
      }
    }
    if (layer.stride > 1 && layer.count > 1 && width > 200) {
      pen.strokeStyle = "rgb(255 255 255 / 28%)";
      pen.lineWidth = 1;
      for (let each = 0; each < layer.count && layer.gridOut[1] < 40; each++) {
        const [x, y, w, h] = rectangle(layer, "Out", each);
        pen.strokeRect(Math.round(x * width) + 0.5, Math.round(y * height) + 0.5, w * width, h * height);
      }
    }
    if (pool !== null) {
      const [x, y, w, h] = rectangle(layer, "Out", pool);
      for (const [style, line] of [["#000", 4], ["#fff", 2]]) {
        pen.strokeStyle = style;
        pen.lineWidth = line;
        pen.strokeRect(x * width, y * height, w * width, h * height);
      }
    }
  }

  async function makeImage(input, number, box) {
    input.plates = plates(await load(input.picture));
    const { width, height } = input.plates.plain;
    const scaled = (side) => ({ width: Math.round(side * Math.min(1, width / height)), height: Math.round(side * Math.min(1, height / width)) });
    const canvas = make("canvas", scaled(896));
    const stage = make("div", { className: "stage", tabIndex: 0 }, canvas);
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-roledescription", "map of pools");
    stage.setAttribute("aria-label", `${input.caption}: the arrow keys go from pool to pool, Page Up and Page Down from layer to layer`);
    stage.setAttribute("aria-describedby", "words");
    const thumbs = make("div", { className: "thumbs" });
    input.thumbs = input.pools.map((layer, index) => {
      const small = make("canvas", scaled(224));
      const told = layer.stride > 1 ? (layer.count > 1 ? `, keeps 1 of ${layer.stride} x ${layer.stride}` : ", one pool of all") : "";
      const button = make("button", { type: "button" }, small, `${layer.name}${told}`);
      button.addEventListener("click", () => {
        input.layer = index;
        keep({ input: number, layer: index, pool: Math.min(kept?.input === number ? kept.pool : 0, layer.count - 1) });
      });
      thumbs.append(button);
      return { small, button };
    });
    input.layer = 0;
    input.stage = canvas;
    const under = (event) => {
      const layer = input.pools[input.layer];
      const bounds = canvas.getBoundingClientRect();
      const at = [(event.clientY - bounds.top) / bounds.height, (event.clientX - bounds.left) / bounds.width];
      const [row, column] = at.map((each, side) => Math.min(Math.max(Math.floor(each * layer.gridIn[side]), 0), layer.gridIn[side] - 1));
      const pool = Math.floor(row / layer.stride) * layer.gridOut[1] + Math.floor(column / layer.stride);
      return { input: number, layer: input.layer, pool };
    };
    stage.addEventListener("pointermove", (event) => look(under(event)));
    stage.addEventListener("pointerleave", () => look(kept));
    stage.addEventListener("click", (event) => keep(under(event)));
    stage.addEventListener("focus", () => kept?.input === number || keep({ input: number, layer: input.layer, pool: 0 }));
    box.replaceChildren(make("div", { className: "image" }, stage, thumbs));
  }

  function markImages(choice) {
    inputs.forEach((input, number) => {
      if (choice?.input === number) input.layer = choice.layer;
      drawImage(input, input.stage, input.pools[input.layer], choice?.input === number ? choice.pool : null);
      input.thumbs.forEach(({ button }, index) => button.setAttribute("aria-pressed", index === input.layer));
    });
  }

  function drawThumbs() {
    for (const input of inputs) input.thumbs.forEach(({ small }, index) => drawImage(input, small, input.pools[index], null));
  }

  // ---- Choosing ----------------------------------------------------------------------------------------------------

  /** Shows a pool, or none. */
  function look(choice) {
    (isText ? markText : markImages)(choice);
    fillPanel(choice);
  }

  /** Shows a pool from now on, and names it in the page's address. */
  function keep(choice, focus = false) {
    kept = choice;
    look(choice);
    const layer = layerOf(choice).name.replace("layer ", "").replace(" ", "-");
    try {
      const more = isText ? "" : `&show=${show}`;
      history.replaceState(null, "", `#input=${choice.input}&layer=${layer}&pool=${choice.pool}&head=${head < 0 ? "mean" : head}${more}`);
    } catch { /* a page within another has no address of its own */ }
    if (!isText) return;
    for (const cell of document.querySelectorAll('.pool[tabindex="0"]')) cell.tabIndex = -1;
    const cell = inputs[choice.input].cells[choice.layer][choice.pool][0];
    cell.tabIndex = 0;
    if (focus) cell.focus();
  }

  function ofAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const input = inputs[asked.get("input") ?? 0] ? Number(asked.get("input") ?? 0) : 0;
    const layer = inputs[input].pools.findIndex((each) => each.name.replace("layer ", "").replace(" ", "-") === asked.get("layer"));
    const chosen = Number(asked.get("head") ?? "mean");
    head = Number.isInteger(chosen) && chosen >= 0 && chosen < headChoice.length - 1 ? chosen : -1;
    headChoice.value = String(head);
    if (["weights", "sizes", "nothing"].includes(asked.get("show"))) show = asked.get("show");
    for (const each of document.querySelectorAll('[name="show"]')) each.checked = each.value === show;
    const pool = Number(asked.get("pool"));
    if (layer < 0 || !asked.has("pool") || !(pool < inputs[input].pools[layer].count)) return null;
    return { input, layer, pool };
  }

  /** The pool that is the most varied in the first layer: what a page begins with. */
  function mostVaried() {
    const layer = inputs[0].pools[0];
    const all = [...Array(layer.count).keys()].map((pool) => variety(parts(layer, pool)));
    return { input: 0, layer: 0, pool: all.indexOf(largest(all)) };
  }

  function beside(choice, key) {
    const layer = layerOf(choice);
    const across = isText ? layer.count : layer.gridOut[1];
    const pool = { ArrowLeft: choice.pool - 1, ArrowRight: choice.pool + 1, Home: 0, End: layer.count - 1,
      ArrowUp: isText ? null : choice.pool - across, ArrowDown: isText ? null : choice.pool + across }[key];
    if (pool !== undefined && pool !== null) return pool >= 0 && pool < layer.count ? { ...choice, pool } : choice;
    const step = { ArrowUp: -1, ArrowDown: 1, PageUp: -1, PageDown: 1 }[key];
    const next = step && layersOf(choice)[choice.layer + step];
    if (!next) return step ? choice : null;
    let there;
    if (isText) there = next.tokenOut[layer.tokenOut.indexOf(choice.pool)];
    else {
      const [row, column] = place(layer.gridOut, choice.pool).map((each, side) => Math.floor((each + 0.5) / layer.gridOut[side] * next.gridOut[side]));
      there = row * next.gridOut[1] + column;
    }
    return { ...choice, layer: choice.layer + step, pool: there };
  }

  function refresh() {
    if (isText) inputs.forEach(fillText);
    else drawThumbs();
    fillLegend();
    look(kept);
  }

  function fillLegend() {
    const span = (className, before, after) => make("span", {}, before, make("i", { className }), after);
    const parts = span("parts", "part of the pool: none", "the largest");
    const sizes = (className) => span(className, "size σ: 0", largestSize.toFixed(2));
    const shown = isText
      ? [make("span", {}, make("i", { className: "of-bars" }), "weight"), ...(largestSize ? [sizes("scale")] : []), parts]
      : [...(show === "weights" ? [span("of-weights", "weight: a third of the mean", "three times as much")] : show === "sizes" ? [sizes("of-picture")] : []), parts];
    document.getElementById("legend").replaceChildren(...shown);
  }

  const mostHeads = largest(inputs.flatMap((input) => input.pools.map((layer) => layer.heads)));
  headChoice.append(make("option", { value: "-1" }, "mean of all"), ...Array.from({ length: mostHeads }, (_, each) => make("option", { value: `${each}` }, `head ${each}`)));
  headChoice.parentElement.hidden = mostHeads < 2;
  headChoice.addEventListener("change", () => {
    head = Number(headChoice.value);
    refresh();
    if (kept) keep(kept);
  });
  for (const each of document.querySelectorAll('[name="show"]')) {
    each.addEventListener("change", () => {
      show = each.value;
      if (kept) kept = null; // what lies over the picture is seen where no pool is
      refresh();
    });
  }
  window.addEventListener("hashchange", () => { kept = ofAddress() ?? kept; refresh(); if (kept) keep(kept); });
  const main = document.getElementById("inputs");
  main.addEventListener("keydown", (event) => {
    if (!kept || event.altKey || event.ctrlKey || event.metaKey || !event.target.matches(".pool, .stage")) return;
    if (event.key === "Escape" && !isText) {
      kept = null;
      look(null);
      return;
    }
    const next = beside(kept, event.key);
    if (!next) return;
    event.preventDefault();
    keep(next, isText);
  });

  kept = ofAddress();
  const isLinked = kept !== null;
  if (isText) {
    inputs.forEach((input, number) => drawText(input, number, document.getElementById(`input-${number}`)));
    main.addEventListener("mouseover", (event) => event.target.choice && look(event.target.choice));
    main.addEventListener("mouseleave", () => look(kept));
    main.addEventListener("focusin", (event) => event.target.choice && keep(event.target.choice));
    main.addEventListener("click", (event) => event.target.choice && keep(event.target.choice));
    new ResizeObserver(() => inputs.forEach((input, number) => {
      const box = document.getElementById(`input-${number}`);
      if (box.clientWidth === input.width) return;
      drawText(input, number, box);
      if (kept) keep(kept);
    })).observe(main);
  } else {
    await Promise.all(inputs.map((input, number) => makeImage(input, number, document.getElementById(`input-${number}`))));
    drawThumbs();
  }
  fillLegend();
  if (isText) kept ??= mostVaried();
  if (kept) {
    keep(kept);
    const { input, layer, pool } = kept;
    if (isLinked) (isText ? inputs[input].cells[layer][pool][0] : inputs[input].stage).scrollIntoView({ block: "center" });
  } else look(null);
  document.body.dataset.ready = "true";
})();
