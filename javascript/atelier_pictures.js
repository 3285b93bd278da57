// The pictures to train on: dropped, chosen, a folder, a zip; thumbnails, and what is wrong with each.
(function () {
    "use strict";

    const { t, api, el, link, replace, errorBox } = window.atelier;
    const TOGETHER = 2; // uploads at a time
    const PER_UPLOAD = 8; // files in one
    const PAGE = 60; // thumbnails asked for at a time
    const RIGHTS = "rights-"; // before a rule, where only the pictures that it leaves out are shown
    const ACCEPT = "image/*,.txt,.caption,.zip";
    // What pictures can have wrong with them: in words, and whether leaving them out helps.
    const KINDS = {
        broken: [(count) => t("{count} can't be read", { count }), true],
        large: [(count) => t("{count} too large", { count }), true],
        prohibited: [(count) => t("{count} forbid training", { count }), true],
        duplicate: [(count) => t("{count} nearly the same as another", { count }), true],
        blurred: [(count) => t("{count} blurred", { count }), true],
        small: [(count) => t("{count} small", { count }), true],
        face: [(count) => t("{count} may show a face", { count }), false],
        caption: [(count) => t("{count} without caption", { count }), false],
        animated: [(count) => t("{count} animated", { count }), false],
    };

    class Pictures {
        constructor(onchange) {
            this.onchange = onchange;
            this.side = 0; // the size that the base model learns at
            this.busy = 0;
            this.line = Promise.resolve();
            this.element = el("div", { class: "atelier-pictures" });
            this.clear();
        }

        clear() {
            Object.assign(this, { upload: "", folder: "", total: 0, shown: [], problems: [], counts: {}, leftOut: [], looked: 0, only: "" });
        }

        render(paths) {
            const choose = el("input", { type: "file", multiple: true, accept: ACCEPT, id: "atelier_files", hidden: true });
            const take = (input) => {
                this.add([...input.files]);
                input.value = ""; // else the same file, chosen again after it was removed, would be no change
            };
            choose.addEventListener("change", () => take(choose));
            const folder = el("input", { type: "file", webkitdirectory: true, hidden: true });
            folder.addEventListener("change", () => take(folder));
            this.drop = el(
                "div",
                { class: "atelier-drop", id: "atelier_drop" },
                el("div", { class: "atelier-drop-mark", "aria-hidden": "true", text: "＋" }),
                el(
                    "div",
                    { class: "atelier-drop-words" },
                    el("p", { class: "atelier-drop-title", text: t("Drop pictures here") }),
                    el(
                        "p",
                        { class: "atelier-drop-or" },
                        link(t("choose files"), () => choose.click(), { id: "atelier_choose" }),
                        " · ",
                        link(t("choose a folder"), () => folder.click()),
                        paths && " · ",
                        paths && link(t("type a path"), () => this.typePath(), { id: "atelier_type_path", "aria-expanded": "false" })
                    ),
                    el("p", { class: "atelier-hint", text: t("10 to 30 pictures are a good start. A .zip works too; .txt files of the same name are captions.") })
                )
            );
            this.listenToDrops();
            this.path = el("div", { class: "atelier-row", hidden: true });
            this.status = el("div", { class: "atelier-status", "aria-live": "polite" });
            this.grid = el("div", { class: "atelier-grid", id: "atelier_thumbnails" });
            this.more = el("div", { class: "atelier-more" });
            const guide = el("a", { class: "atelier-link", href: window.atelier.guideUrl(), target: "_blank", rel: "noopener", id: "atelier_guide", text: t("What creators should know") });
            const foot = el("p", { class: "atelier-hint" }, t("Whose pictures may be trained on?"), " ", guide);
            replace(this.element, this.drop, choose, folder, this.path, this.status, this.grid, this.more, foot);
            if (this.folder) this.typePath();
            this.draw();
            return this.element;
        }

        listenToDrops() {
            const { drop } = this;
            drop.addEventListener("dragover", (event) => {
                event.preventDefault();
                drop.classList.add("is-over");
            });
            drop.addEventListener("dragleave", () => drop.classList.remove("is-over"));
            drop.addEventListener("drop", async (event) => {
                event.preventDefault();
                drop.classList.remove("is-over");
                this.add(await droppedFiles(event.dataTransfer));
            });
        }

        typePath() {
            const input = el("input", { type: "text", id: "atelier_folder", class: "atelier-input", "aria-label": t("Folder on this computer"), placeholder: t("a folder's full path"), value: this.folder });
            const open = () => input.value.trim() && this.openFolder(input.value.trim());
            input.addEventListener("keydown", (event) => event.key === "Enter" && open());
            replace(this.path, input, el("button", { type: "button", class: "atelier-button", id: "atelier_open_folder", onclick: open, text: t("Open") }));
            this.path.hidden = false;
            if (!this.folder) input.focus();
        }

        // ------------------------------------------------------------------------------------- coming and going

        async openFolder(path) {
            await this.working(t("Reading the folder …"), async () => {
                const said = await api("POST", "folder", { path });
                this.begin(said.upload, said.folder || path);
                this.take(said, 0);
            });
            this.lookOn();
        }

        begin(upload, folder) {
            this.clear();
            Object.assign(this, { upload, folder });
        }

        async add(given) {
            // What systems put into every folder is nobody's picture and no news.
            const files = given.filter((file) => !/^(\.|thumbs\.db$|desktop\.ini$)/i.test(file.name));
            if (!files.length) return;
            await this.working(t("Adding pictures …"), async () => {
                if (!this.upload || this.folder) this.begin((await api("POST", "uploads")).upload, "");
                this.problems = [];
                try {
                    await this.send(files);
                } finally {
                    // What had arrived before a failure is there and shown.
                    await this.load(0);
                }
            });
        }

        async send(files) {
            const parts = [];
            for (let at = 0; at < files.length; at += PER_UPLOAD) parts.push(files.slice(at, at + PER_UPLOAD));
            let done = 0;
            // A worker that fails leaves none for the other.
            const failed = (error) => {
                parts.length = 0;
                throw error;
            };
            const worker = async () => {
                for (let part = parts.shift(); part; part = parts.shift()) {
                    const body = new FormData();
                    part.forEach((file) => body.append("files", file, file.name));
                    const said = await api("POST", `uploads/${this.upload}/pictures`, body).catch(failed);
                    this.problems.push(...said.problems);
                    // What is no picture at all is not kept, so no tile will say it.
                    const lost = said.pictures.filter((picture) => picture.refused && !picture.thumbnail_url);
                    this.problems.push(...lost.map((picture) => `${picture.name}: ${picture.problems.join(" ")}`));
                    this.total = said.total;
                    done += part.length;
                    this.say(t("Adding pictures … {done} of {total}", { done, total: files.length }), done / files.length);
                }
            };
            await Promise.all(Array.from({ length: TOGETHER }, worker));
        }

        async load(from, count) {
            const part = `from=${from}&count=${count || PAGE}&side=${this.side}`;
            // What is left out for its rights is known to those; everything else to the folder.
            const rule = this.only.startsWith(RIGHTS) && this.only.slice(RIGHTS.length);
            const said = await api("GET", rule ? `${this.rights.base}/rules/${rule}?whose=${this.rights.whose}&${part}` : `uploads/${this.upload}?${part}&only=${this.only}`);
            this.take(said, from);
            if (this.only && !said.total) {
                this.only = "";
                await this.load(0);
            }
        }

        // A part of the listing, from its place on.
        take(said, from) {
            this.shownTotal = said.total;
            if (!this.only) this.total = said.total;
            Object.assign(this, { counts: said.counts, leftOut: said.left_out, looked: said.looked, folder: said.folder });
            this.shown = from ? [...this.shown, ...said.pictures] : said.pictures;
        }

        // The same pictures once more: in the language of now, or for another model.
        async reload() {
            if (!this.upload) return;
            // The same pictures will be trained on: nobody has to wait for it.
            await this.working("", () => this.load(0, Math.min(500, Math.max(this.shown.length, PAGE))), 0);
        }

        // A folder that was opened by its path is looked into bit by bit, so that blurred and doubled pictures are known.
        async lookOn() {
            const { upload } = this;
            for (let left = 1; left && upload === this.upload; ) {
                ({ left } = await api("POST", `uploads/${upload}/look`).catch(() => ({ left: 0 })));
                if (upload === this.upload && (!left || !document.hidden)) await this.reload();
            }
        }

        async leaveOut(asked) {
            await this.working("", async () => {
                await api("POST", `uploads/${this.upload}/leave-out`, { side: this.side, ...asked });
                await this.load(0, Math.min(500, Math.max(this.shown.length, PAGE)));
            });
        }

        async caption(name, text) {
            await this.working("", async () => {
                await api("PUT", `uploads/${this.upload}/captions/${encodeURIComponent(name)}`, { text });
                await this.load(0, Math.min(500, Math.max(this.shown.length, PAGE)));
            });
        }

        // One thing after the other: two drops at once would otherwise begin two collections.
        working(text, work, busy = 1) {
            this.busy += busy;
            if (busy) this.onchange();
            this.line = this.line.then(async () => {
                this.error = null;
                if (text) this.say(text);
                try {
                    await work();
                } catch (error) {
                    this.error = error;
                }
                this.busy -= busy;
                this.draw();
                this.onchange();
            });
            return this.line;
        }

        // Show a collection of earlier, by its id.
        async again(upload) {
            this.begin(upload, "");
            try {
                await this.load(0);
            } catch (error) {
                this.clear();
            }
            if (this.looked < this.total) this.lookOn();
        }

        // ------------------------------------------------------------------------------------------- drawing

        say(text, share) {
            replace(this.status, text && el("span", { text }), share !== undefined && el("progress", { class: "atelier-progress", max: 1, value: share, "aria-label": text }));
        }

        draw() {
            if (!this.grid) return;
            this.drop.classList.toggle("is-small", this.total > 0);
            replace(
                this.status,
                this.error && errorBox(this.error),
                ...this.problems.slice(0, 5).map((text) => el("div", { class: "atelier-note", text })),
                this.problems.length > 5 && el("div", { class: "atelier-note", text: t("… and {count} more files.", { count: this.problems.length - 5 }) }),
                this.total > 0 && el("div", { class: "atelier-count", id: "atelier_count", text: this.summary() }),
                this.remedies(),
                this.only.startsWith(RIGHTS) && el("p", { class: "atelier-hint" }, t("Only those that are left out for their rights are shown."), " ", link(t("Show all"), () => this.showOnly(this.only))),
                this.leftOut.length > 0 && this.leftOutLine()
            );
            replace(this.grid, ...this.shown.map((picture, at) => this.tile(picture, at)));
            this.drawMarks();
            const left = (this.shownTotal || 0) - this.shown.length;
            replace(this.more, left > 0 && el("button", { type: "button", class: "atelier-button", onclick: () => this.working("", () => this.load(this.shown.length)), text: t("Show more ({count} left)", { count: left }) }));
        }

        summary() {
            const count = this.total === 1 ? t("1 picture") : t("{count} pictures", { count: this.total });
            return this.looked < this.total ? `${count} · ${t("looked at {count} so far", { count: this.looked })}` : count;
        }

        // Those of one kind alone, or all again where they are what is shown.
        showOnly(kind) {
            this.only = this.only === kind ? "" : kind;
            return this.working("", () => this.load(0));
        }

        remedies() {
            const found = Object.keys(KINDS).filter((kind) => this.counts[kind]);
            if (!found.length) return null;
            return el(
                "ul",
                { class: "atelier-remedies", id: "atelier_remedies" },
                ...found.map((kind) => {
                    const [words, helps] = KINDS[kind];
                    const only = this.only === kind;
                    const show = () => this.showOnly(kind);
                    return el(
                        "li",
                        { class: only ? "is-chosen" : "" },
                        link(words(this.counts[kind]), show, { "aria-pressed": String(only), title: only ? t("Show all") : t("Show only these") }),
                        helps && el("button", { type: "button", class: "atelier-chip", "data-kind": kind, onclick: () => this.leaveOut({ kind }), text: t("Leave out") })
                    );
                })
            );
        }

        leftOutLine() {
            const back = () => this.leaveOut({ names: this.leftOut, out: false });
            return el("p", { class: "atelier-hint", id: "atelier_left_out" }, t("{count} left out", { count: this.leftOut.length }), " · ", link(t("Take them back"), back));
        }

        // What rights say of each picture comes later than the pictures, and changes: the tiles stay where they are.
        drawMarks() {
            if (!this.grid || !this.rights) return;
            [...this.grid.children].forEach((tile, at) => {
                const picture = this.shown[at];
                const used = Boolean(picture) && this.rights.isOverridden(picture.name);
                // A file that forbids training itself says so already, below its picture.
                const mark = picture && (used || !picture.refused) ? this.rights.mark(picture.name) : null;
                const place = tile.querySelector(".atelier-tile-rights");
                place.textContent = mark ? mark.text : "";
                place.className = `atelier-tile-rights ${mark ? mark.kind : ""}`;
                place.hidden = !mark || !mark.text;
                tile.classList.toggle("is-used", used);
            });
        }

        tile(picture, at) {
            const said = picture.problems.join(" ");
            const open = () => window.atelier.pictureDialog(this, at);
            const shown = picture.thumbnail_url
                ? el("img", { src: "." + picture.thumbnail_url, loading: "lazy", alt: "", decoding: "async" })
                : el("span", { class: "atelier-broken", "aria-hidden": "true", text: "✕" });
            return el(
                "figure",
                { class: `atelier-tile${kindOf(picture)}` },
                el("button", { type: "button", class: "atelier-tile-open", onclick: open, "aria-label": [picture.name, picture.caption, said].filter(Boolean).join(". "), title: [picture.name, picture.caption, said].filter(Boolean).join("\n") }, shown, el("span", { class: "atelier-tile-rights", hidden: true })),
                said && el("span", { class: "atelier-badge", "aria-hidden": "true", text: picture.refused ? "⊘" : "!" }),
                el("button", { type: "button", class: "atelier-remove", "aria-label": t("Leave out {name}", { name: picture.name }), onclick: () => this.leaveOut({ names: [picture.name] }), text: "×" }),
                el("figcaption", { text: said || picture.caption || picture.name })
            );
        }
    }

    function kindOf(picture) {
        if (picture.refused) return " is-refused";
        if (!picture.kinds.length) return "";
        return picture.kinds.some((kind) => KINDS[kind] && KINDS[kind][1]) ? " is-warned" : " is-hinted";
    }

    // Files and the files inside dropped folders.
    async function droppedFiles(transfer) {
        const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
        if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
        const files = [];
        async function walk(entry) {
            if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
            else {
                const reader = entry.createReader();
                for (;;) {
                    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
                    if (!some.length) break;
                    for (const each of some) await walk(each);
                }
            }
        }
        for (const entry of entries) await walk(entry);
        return files;
    }

    window.atelier.Pictures = Pictures;
})();
