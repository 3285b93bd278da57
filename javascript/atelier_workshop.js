// The tab: its pages (new, all settings, trainings, one training), and what goes on, visible on each of them.
(function () {
    "use strict";

    const { t, api, el, replace, errorBox, find, languages, storage, whenThere, Draft, NewPage, ExpertPage, QueuePage, RunPage } = window.atelier;
    const POLL_MS = 1000;
    const LIST_EVERY = 3; // of these
    const PLACE = "atelier_place";

    class Workshop {
        constructor(mount) {
            this.mount = mount;
            this.draft = new Draft();
            const go = (page, id) => this.go(page, id);
            this.pages = { new: new NewPage(this.draft, go), expert: new ExpertPage(this.draft, go), queue: new QueuePage(go) };
            this.run = null;
            this.page = "new";
            this.ticks = 0;
        }

        async start() {
            try {
                await window.atelier.ready();
                await this.draft.start(await api("GET", "options"));
                await this.pages.queue.refresh();
                this.takePlace();
            } catch (error) {
                replace(this.mount, errorBox(error));
                window.setTimeout(() => this.start(), 3000);
                return;
            }
            window.atelier.onLanguage(() => {
                this.render();
                this.show();
                this.sayAgain();
                this.draft.pictures.reload();
                this.draft.replan(true);
            });
            window.atelier.onBack(() => this.back());
            this.render();
            this.show();
            this.draft.replan(true);
            window.setInterval(() => this.tick(), POLL_MS);
        }

        // Where this browser tab was; a fresh one shows the training that goes on, if there is one.
        takePlace() {
            let kept = null;
            try {
                kept = JSON.parse(storage(PLACE, undefined, "sessionStorage"));
            } catch (error) {
                // Then it begins where everybody does.
            }
            const { queue } = this.pages;
            const going = queue.running();
            this.page = kept && kept.page in { ...this.pages, run: 1 } ? kept.page : going ? "run" : "new";
            const id = (kept && kept.run) || (going && going.id);
            if (this.page === "run") {
                if (queue.runs.some((run) => run.id === id)) this.run = this.runPage(id);
                else this.page = "new";
            }
        }

        // What the program itself said of a training is asked for again; until it is there, the old page stays.
        async sayAgain() {
            if (!this.run) return;
            const fresh = this.runPage(this.run.id);
            await fresh.poll();
            if (!this.run || this.run.id !== fresh.id) return;
            this.run = fresh;
            if (this.page === "run") this.show();
        }

        runPage(id) {
            return new RunPage(id, (page, other) => this.go(page, other), () => this.ended());
        }

        go(page, id) {
            this.page = page;
            if (page === "run" && (!this.run || this.run.id !== id)) this.run = this.runPage(id);
            storage(PLACE, JSON.stringify({ page, run: this.run && this.run.id }), "sessionStorage");
            this.show();
            this.pages.queue.refresh().then(() => this.drawHead());
            const top = this.mount.getBoundingClientRect().top;
            if (top < 0) this.mount.scrollIntoView({ block: "start" });
        }

        // The program answers again, perhaps another one than before: what could not be asked is asked now.
        async back() {
            if (this.draft.error) this.draft.replan(true);
            if (this.run) this.run.poll();
            await this.pages.queue.refresh();
            this.drawHead();
            if (this.page === "queue") this.pages.queue.draw();
        }

        async ended() {
            await this.pages.queue.refresh();
            this.drawHead();
            if (window.atelier.refreshCards) window.atelier.refreshCards();
        }

        async tick() {
            // Nothing is asked while nobody looks: the tab is hidden, or the browser is.
            if (document.hidden || !this.mount.isConnected || this.mount.offsetParent === null) return;
            this.ticks += 1;
            if (this.page === "run" && this.run && this.run.isLive()) this.run.poll();
            const { queue } = this.pages;
            const going = queue.running() || queue.queue.length || queue.error;
            if (this.ticks % LIST_EVERY === 0 && !this.listing && (this.page === "queue" || going)) {
                this.listing = true;
                await queue.refresh();
                this.listing = false;
                this.drawHead();
                if (this.page === "queue") queue.draw();
            }
        }

        // ------------------------------------------------------------------------------------------- drawing

        render() {
            this.tabs = el("nav", { class: "atelier-tabs", "aria-label": "LoRA Atelier" });
            this.place = el("div", { class: "atelier-place" });
            replace(this.mount, el("div", { class: "atelier-tab" }, el("header", { class: "atelier-head" }, this.tabs, !find("atelier_header") && languages()), this.place));
            this.drawHead();
        }

        drawHead() {
            const { queue } = this.pages;
            const running = queue.running();
            const count = queue.queue.length + (running ? 1 : 0);
            const tab = (page, text, mark) =>
                el("button", { type: "button", class: `atelier-page-link${this.page === page || (page === "queue" && this.page === "run") ? " is-chosen" : ""}`, id: `atelier_page_${page}`, "aria-current": this.page === page ? "page" : null, onclick: () => this.go(page) }, text, mark);
            const focused = document.activeElement && this.tabs.contains(document.activeElement) && document.activeElement.id;
            replace(
                this.tabs,
                tab("new", t("New")),
                tab("expert", t("All settings")),
                tab("queue", t("Trainings"), count > 0 && el("span", { class: "atelier-count-mark", text: count })),
                running && this.page !== "run" && this.now(running)
            );
            if (focused && find(focused)) find(focused).focus();
        }

        // What goes on, in a few words.
        now(run) {
            const share = run.steps ? Math.floor((100 * run.step) / run.steps) : 0;
            return el("button", { type: "button", class: "atelier-now", id: "atelier_now", onclick: () => this.go("run", run.id), title: t("Show this training") }, el("span", { class: "atelier-now-dot", "aria-hidden": "true" }), el("span", { class: "atelier-long", text: run.name }), `${share} %`);
        }

        show() {
            const { page } = this;
            this.draft.wantsSettings = page === "expert";
            if (page === "run" && this.run) {
                replace(this.place, this.run.element);
                this.run.draw();
                this.run.poll();
            } else if (page === "queue") {
                replace(this.place, this.pages.queue.element);
                this.pages.queue.key = null;
                this.pages.queue.draw();
                this.pages.queue.refresh().then(() => this.pages.queue.draw());
            } else {
                replace(this.place, this.pages[page].render());
                this.draft.replan(true);
            }
            this.drawHead();
        }
    }

    whenThere("atelier_root", (mount) => {
        window.atelier.dress(mount);
        const workshop = new Workshop(mount);
        window.atelier.tab = workshop;
        workshop.start();
    });
})();
