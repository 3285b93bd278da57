// The pictures to train on: dropped, chosen, a folder, a zip; thumbnails, and what is wrong with each.
(function () {
    "use strict";

    const { t, api, el, replace, errorBox } = window.atelier;
    const TOGETHER = 2; // uploads at a time
    const PER_UPLOAD = 8; // files in one
    const PAGE = 60; // thumbnails asked for at a time
    const ACCEPT = "image/*,.txt,.caption,.zip";

    class Pictures {
        constructor(onchange) {
            this.onchange = onchange;
            this.upload = "";
            this.folder = "";
            this.total = 0;
            this.shown = [];
            this.problems = [];
            this.busy = 0;
            this.line = Promise.resolve();
            this.element = el("div", { class: "atelier-pictures" });
        }

        render() {
            const choose = el("input", { type: "file", multiple: true, accept: ACCEPT, id: "atelier_files", hidden: true });
            const take = (input) => {
                this.add([...input.files]);
                input.value = ""; // else the same file, chosen again after it was removed, would be no change
            };
            choose.addEventListener("change", () => take(choose));
            const folder = el("input", { type: "file", webkitdirectory: true, hidden: true });
            folder.addEventListener("change", () => take(folder));
            const drop = el(
                "div",
                { class: "atelier-drop", id: "atelier_drop" },
                el("div", { class: "atelier-drop-mark", "aria-hidden": "true", text: "＋" }),
                el("p", { text: t("Drop pictures here") }),
                el(
                    "p",
                    { class: "atelier-drop-or" },
                    el("button", { type: "button", class: "atelier-link", onclick: () => choose.click(), text: t("choose files") }),
                    " · ",
                    el("button", { type: "button", class: "atelier-link", onclick: () => folder.click(), text: t("choose a folder") })
                ),
                el("p", { class: "atelier-hint", text: t("10 to 30 pictures are a good start. A .zip works too; .txt files of the same name are captions.") })
            );
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
            this.status = el("div", { class: "atelier-status", "aria-live": "polite" });
            this.grid = el("div", { class: "atelier-grid", id: "atelier_thumbnails" });
            this.more = el("div", { class: "atelier-more" });
            replace(this.element, drop, choose, folder, this.pathRow(), this.status, this.grid, this.more);
            this.draw();
            return this.element;
        }

        pathRow() {
            const input = el("input", {
                type: "text",
                id: "atelier_folder",
                class: "atelier-input",
                "aria-label": t("Folder on this computer"),
                placeholder: t("or type a folder's path"),
                value: this.folder,
            });
            const open = () => input.value.trim() && this.openFolder(input.value.trim());
            input.addEventListener("keydown", (event) => event.key === "Enter" && open());
            return el(
                "div",
                { class: "atelier-row" },
                input,
                el("button", { type: "button", class: "atelier-button", id: "atelier_open_folder", onclick: open, text: t("Open") })
            );
        }

        async openFolder(path) {
            await this.working(t("Reading the folder …"), async () => {
                const said = await api("POST", "folder", { path });
                this.take(said.upload, said.folder || path, said.total, said.pictures);
            });
        }

        take(upload, folder, total, pictures) {
            Object.assign(this, { upload, folder, total, shown: pictures, problems: [] });
        }

        async add(given) {
            // What systems put into every folder is nobody's picture and no news.
            const files = given.filter((file) => !/^(\.|thumbs\.db$|desktop\.ini$)/i.test(file.name));
            if (!files.length) return;
            await this.working(t("Adding pictures …"), async () => {
                if (!this.upload || this.folder) {
                    const made = await api("POST", "uploads");
                    this.take(made.upload, "", 0, []);
                }
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

        async load(from) {
            const said = await api("GET", `uploads/${this.upload}?from=${from}&count=${PAGE}`);
            this.total = said.total;
            this.shown = from ? [...this.shown, ...said.pictures] : said.pictures;
        }

        // The same pictures once more, their problems in the language of now.
        async reload() {
            const shown = Math.max(this.shown.length, PAGE);
            await this.working("", async () => {
                const said = await api("GET", `uploads/${this.upload}?from=0&count=${shown}`);
                this.take(this.upload, this.folder, said.total, said.pictures);
            });
        }

        async remove(name) {
            await this.working("", async () => {
                await api("DELETE", `uploads/${this.upload}/pictures/${encodeURIComponent(name)}`);
                this.shown = this.shown.filter((picture) => picture.name !== name);
                this.total -= 1;
            });
        }

        // One thing after the other: two drops at once would otherwise begin two collections.
        working(text, work) {
            this.busy += 1;
            this.onchange();
            this.line = this.line.then(async () => {
                this.error = null;
                this.say(text);
                try {
                    await work();
                } catch (error) {
                    this.error = error;
                }
                this.busy -= 1;
                this.draw();
                this.onchange();
            });
            return this.line;
        }

        // Show a collection of earlier, by its id.
        async again(upload) {
            const said = await api("GET", `uploads/${upload}?from=0&count=${PAGE}`);
            this.take(upload, said.folder || "", said.total, said.pictures);
        }

        say(text, share) {
            replace(
                this.status,
                text && el("span", { text }),
                share !== undefined && el("progress", { class: "atelier-progress", max: 1, value: share, "aria-label": text })
            );
        }

        draw() {
            const bad = this.shown.filter((picture) => picture.problems.length).length;
            const summary = this.total ? t("{count} pictures", { count: this.total }) : "";
            replace(
                this.status,
                this.error && errorBox(this.error),
                ...this.problems.slice(0, 5).map((text) => el("div", { class: "atelier-note", text })),
                this.problems.length > 5 && el("div", { class: "atelier-note", text: t("… and {count} more files.", { count: this.problems.length - 5 }) }),
                summary && el("div", { class: "atelier-count", id: "atelier_count", text: bad ? `${summary} · ${t("{count} need a look", { count: bad })}` : summary })
            );
            replace(this.grid, ...this.shown.map((picture) => this.tile(picture)));
            const left = this.total - this.shown.length;
            replace(
                this.more,
                left > 0 &&
                    el("button", {
                        type: "button",
                        class: "atelier-button",
                        onclick: () => this.working("", () => this.load(this.shown.length)),
                        text: t("Show more ({count} left)", { count: left }),
                    })
            );
        }

        tile(picture) {
            const said = picture.problems.join(" ");
            const picturePart = picture.thumbnail_url
                ? el("img", { src: "." + picture.thumbnail_url, loading: "lazy", alt: picture.caption || picture.name, decoding: "async" })
                : el("div", { class: "atelier-broken", "aria-hidden": "true", text: "✕" });
            return el(
                "figure",
                { class: `atelier-tile${picture.refused ? " is-refused" : said ? " is-warned" : ""}`, title: [picture.name, picture.caption, said].filter(Boolean).join("\n") },
                picturePart,
                said && el("span", { class: "atelier-badge", text: picture.refused ? "⊘" : "!", "aria-label": said }),
                !this.folder &&
                    el("button", { type: "button", class: "atelier-remove", "aria-label": t("Remove {name}", { name: picture.name }), onclick: () => this.remove(picture.name), text: "×" }),
                el("figcaption", { text: said || picture.caption || picture.name })
            );
        }
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
