// The curve of a run: training loss, smoothed as asked, and the loss on held-out pictures with its best step.
(function () {
    "use strict";

    const { t, el, svg, storage } = window.atelier;
    const HEIGHT = 220;
    const EDGE = { left: 48, right: 14, top: 14, bottom: 26 };
    const MOST = 1200; // points kept; the program thins what it sends at once

    class LossChart {
        constructor() {
            this.losses = [];
            this.heldout = [];
            this.best = null;
            this.smoothing = Number(storage("atelier_smoothing") || 0.85);
            this.figure = null;
        }

        take(event) {
            // A resumed run takes steps again that a killed one had made: the later ones count.
            const earlier = (points) => (points.length && points[points.length - 1].step >= event.step ? points.filter((point) => point.step < event.step) : points);
            if (event.kind === "stepped") (this.losses = earlier(this.losses)).push({ step: event.step, loss: event.loss });
            else if (event.kind === "validated") (this.heldout = earlier(this.heldout)).push({ step: event.step, loss: event.loss });
            else if (event.kind === "best") this.best = event;
            if (this.losses.length > MOST) this.losses = this.losses.filter((point, at) => at % 2 || at === this.losses.length - 1);
        }

        // Made once; afterwards only the drawing in it is replaced.
        render() {
            this.drawing = el("div", { class: "atelier-chart-drawing" });
            this.words = el("figcaption");
            const slider = el("input", { type: "range", min: 0, max: 0.98, step: 0.01, value: this.smoothing, "aria-label": t("Smoothing") });
            slider.addEventListener("input", () => {
                this.smoothing = Number(slider.value);
                storage("atelier_smoothing", slider.value);
                this.draw(this.steps);
            });
            new ResizeObserver(() => this.steps && this.draw(this.steps)).observe(this.drawing);
            this.drawing.addEventListener("pointermove", (event) => this.point(event));
            this.drawing.addEventListener("pointerleave", () => this.mark && this.mark.setAttribute("visibility", "hidden"));
            this.figure = el("figure", { class: "atelier-chart-frame", id: "atelier_chart" }, this.drawing, el("div", { class: "atelier-chart-foot" }, this.words, el("label", { class: "atelier-smoothing" }, el("span", { text: t("Smoothing") }), slider)));
            return this.figure;
        }

        smoothed() {
            let mean = 0;
            let weight = 0;
            // As the mean of an exponential window that has just begun: the first points are not pulled to the first one.
            return this.losses.filter((point) => Number.isFinite(point.loss)).map((point) => {
                mean = this.smoothing * mean + (1 - this.smoothing) * point.loss;
                weight = this.smoothing * weight + (1 - this.smoothing);
                return { step: point.step, loss: mean / weight };
            });
        }

        draw(steps) {
            this.steps = steps;
            const line = this.smoothed();
            if (!this.figure || line.length < 2) return;
            const heldout = this.heldout.filter((point) => Number.isFinite(point.loss));
            // As wide as it is shown, so that its words have the size of other words.
            const WIDTH = Math.max(280, Math.round(this.drawing.clientWidth) || 640);
            const values = [...line, ...heldout].map((point) => point.loss);
            const low = Math.min(...values);
            const high = Math.max(...values, low + 1e-6);
            const x = (step) => EDGE.left + (step / Math.max(1, steps, line[line.length - 1].step)) * (WIDTH - EDGE.left - EDGE.right);
            const y = (loss) => EDGE.top + ((high - loss) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
            this.scale = { line, heldout, x, width: WIDTH };
            const path = (points) => points.map((point, at) => `${at ? "L" : "M"}${x(point.step).toFixed(1)} ${y(point.loss).toFixed(1)}`).join("");
            const best = this.best || (heldout.length ? heldout.reduce((one, other) => (other.loss < one.loss ? other : one)) : null);
            const label = (text, at, top, anchor, kind) => {
                const made = svg("text", { x: at, y: top, "text-anchor": anchor, class: `atelier-axis ${kind || ""}` });
                made.textContent = text;
                return made;
            };
            const levels = [high, (high + low) / 2, low];
            this.mark = svg("line", { y1: EDGE.top, y2: HEIGHT - EDGE.bottom, x1: 0, x2: 0, class: "atelier-pointer", visibility: "hidden" });
            const bestX = best && x(best.step);
            this.drawing.replaceChildren(
                svg(
                    "svg",
                    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "atelier-chart", role: "img", "aria-label": this.spoken(line, heldout, best) },
                    ...levels.map((level) => svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(level), y2: y(level), class: "atelier-grid-line" })),
                    ...levels.map((level) => label(level.toPrecision(2), EDGE.left - 6, y(level) + 4, "end")),
                    label("0", EDGE.left, HEIGHT - 8, "middle"),
                    label(String(steps), WIDTH - EDGE.right, HEIGHT - 8, "end"),
                    svg("path", { d: path(line), class: "atelier-line" }),
                    svg("path", { d: path(heldout), class: "atelier-heldout" }),
                    ...heldout.map((point) => svg("circle", { cx: x(point.step), cy: y(point.loss), r: 3.5, class: "atelier-dot" })),
                    ...(best ? [svg("line", { x1: bestX, x2: bestX, y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "atelier-best-line" }), svg("circle", { cx: bestX, cy: y(best.loss), r: 6, class: "atelier-best-dot" }), label(`★ ${best.step}`, Math.min(bestX, WIDTH - 40), EDGE.top - 2, "middle", "is-best")] : []),
                    this.mark
                )
            );
            this.say(line, heldout, best);
        }

        spoken(line, heldout, best) {
            const said = [t("Loss over the steps"), `${t("training loss, smoothed")} ${line[line.length - 1].loss.toPrecision(3)}`];
            if (heldout.length) said.push(`${t("held-out pictures")} ${heldout[heldout.length - 1].loss.toPrecision(3)}`);
            if (best) said.push(t("best at step {step}", { step: best.step }));
            return said.join(". ");
        }

        say(line, heldout, best) {
            const key = (kind, text) => el("span", { class: `atelier-key ${kind}`, text });
            this.words.replaceChildren(
                key("is-line", `${t("training loss, smoothed")} ${line[line.length - 1].loss.toPrecision(3)}`),
                ...(heldout.length ? [key("is-dot", `${t("held-out pictures")} ${heldout[heldout.length - 1].loss.toPrecision(3)}`)] : []),
                ...(best ? [key("is-star", t("best at step {step}", { step: best.step }))] : [])
            );
        }

        // The values under the pointer, in the words below.
        point(event) {
            if (!this.scale) return;
            const box = this.drawing.getBoundingClientRect();
            const at = ((event.clientX - box.left) / box.width) * this.scale.width;
            const nearest = this.scale.line.reduce((one, other) => (Math.abs(this.scale.x(other.step) - at) < Math.abs(this.scale.x(one.step) - at) ? other : one));
            this.mark.setAttribute("x1", this.scale.x(nearest.step));
            this.mark.setAttribute("x2", this.scale.x(nearest.step));
            this.mark.setAttribute("visibility", "visible");
            this.words.firstChild.textContent = `${t("step {step}", { step: nearest.step })}: ${nearest.loss.toPrecision(3)}`;
        }
    }

    window.atelier.LossChart = LossChart;
})();
