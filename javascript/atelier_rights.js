// The rights of the pictures that are being prepared: what the program knows of them, what is stated, what that changes.
(function () {
    "use strict";

    const { t, api, storage } = window.atelier;
    // Whoever does not say whose pictures they are is told what holds for an experiment.
    const UNSAID = "experiment";
    const BY = "atelier_by";

    const BASES = {
        owner: () => t("own work"),
        licence: () => t("open licence"),
        written_permission: () => t("permission"),
        public_domain: () => t("public domain"),
        jp_30_4: () => t("Japan, Article 30-4"),
        eu_tdm_art4: () => t("EU, text and data mining (Article 4)"),
        eu_tdm_art3: () => t("EU, scientific research (Article 3)"),
        us_fair_use_claim: () => t("US, fair use claimed"),
        none: () => t("not stated"),
    };
    // Why pictures are not used: in words with their number, and as a mark on one.
    const RULES = {
        reservation: [(count) => t("{count} ask not to be trained on", { count }), () => t("asks not to be trained on")],
        licence: [(count) => t("{count} have no licence", { count }), () => t("no licence")],
        permits: [(count) => t("{count} do not permit training", { count }), () => t("training not permitted")],
        expired: [(count) => t("{count} have a document that does not hold today", { count }), () => t("expired")],
        basis: [(count) => t("{count} without a reason why they may be used", { count }), () => t("not stated")],
        evidence: [(count) => t("{count} without a document", { count }), () => t("document missing")],
        approval: [(count) => t("{count} came after the folder was approved", { count }), () => t("not approved")],
        consent: [(count) => t("{count} show someone without a written consent", { count }), () => t("consent missing")],
        unread: [(count) => t("{count} hold a statement that can't be read", { count }), () => t("can't be read")],
        withdrawn: [(count) => t("{count} were withdrawn", { count }), () => t("withdrawn")],
    };

    const PERMITS = { commercial_output: () => t("selling pictures"), share_model: () => t("sharing the LoRA"), commercial_model: () => t("selling the LoRA"), attribution: () => t("naming the creators") };
    const ANSWERS = { yes: () => t("permitted"), no: () => t("not permitted"), unknown: () => t("not known") };
    const DUTIES = { yes: () => t("required"), no: () => t("not required"), unknown: () => t("not known") };

    // What may be done with the LoRA, in a line.
    function permitsSaid(permits) {
        const answer = (name) => ((name === "attribution" ? DUTIES : ANSWERS)[permits[name]] || ANSWERS.unknown)();
        return Object.keys(PERMITS).map((name) => t("{name}: {value}", { name: PERMITS[name](), value: answer(name) })).join(t("; "));
    }

    class Rights {
        constructor(draft) {
            this.draft = draft;
            this.asked = 0;
            this.clear();
        }

        clear() {
            Object.assign(this, { said: null, key: "", upload: "", error: null, licence: "", looking: Promise.resolve() });
        }

        tell() {
            this.draft.pictures.drawMarks();
            // The plan is of those that are used.
            const used = this.said && this.said.counts.included;
            if (used !== this.used) this.draft.replan();
            this.used = used;
            this.draft.tell();
        }

        get whose() {
            return this.draft.form.whose || UNSAID;
        }

        get base() {
            return `rights/folders/${this.draft.pictures.upload}`;
        }

        // Looked at again where something changed that they depend on.
        follow() {
            const { upload, total, leftOut, counts } = this.draft.pictures;
            const key = upload && JSON.stringify([upload, this.whose, total, leftOut.length, counts.caption, counts.broken, counts.large, window.atelier.lang()]);
            if (key === this.key) return;
            if (!upload) {
                this.asked += 1;
                this.clear();
                this.tell();
                return;
            }
            this.key = key;
            if (this.upload !== upload) Object.assign(this, { upload, said: null });
            this.looking = this.look(++this.asked);
            this.looking.then(() => this.repeat());
        }

        // The program looks through a folder for two seconds at a time; until it is through, this asks again.
        async look(number) {
            try {
                do {
                    const said = await api("GET", `${this.base}?whose=${this.whose}&count=0`);
                    if (number !== this.asked) return;
                    this.said = said;
                    this.error = null;
                    this.tell();
                } while (this.said.unread);
            } catch (error) {
                if (number !== this.asked) return;
                this.error = error;
                this.tell();
            }
        }

        // What was stated of the pictures before holds for those that took their place.
        async repeat() {
            if (!this.licence || !this.said || this.said.unread || this.said.statement.licence) return;
            await this.state({ licence: this.licence }).catch((error) => (this.error = error));
        }

        // One change after the other, none before all was looked at; each answers with how the folder stands then.
        change(what, asked, query) {
            const { base, whose } = this;
            const work = async () => {
                const said = await api("POST", `${base}/${what}?whose=${whose}&count=0${query || ""}`, asked);
                if (base === this.base) Object.assign(this, { said, error: null });
                this.tell();
            };
            const done = this.looking.then(work, work);
            this.looking = done.catch(() => null);
            return done;
        }

        state(said) {
            return this.change("statement", { said, by: this.by() });
        }

        except(name, said) {
            return this.change("pictures", { names: [name], said, by: this.by() });
        }

        override(asked) {
            return this.change("override", asked);
        }

        withdraw(name) {
            return this.change("withdraw", { names: [name], by: this.by() });
        }

        approve() {
            return this.change("approve", { by: this.by() });
        }

        // A document; the body is the file itself.
        async attach(file, asked) {
            const query = new URLSearchParams({ ...asked, name: file.name, by: this.by() });
            return this.change("evidence", file, `&${query}`);
        }

        picture(name) {
            return api("GET", `${this.base}/pictures/${encodeURIComponent(name)}?whose=${this.whose}`);
        }

        // Copies without personal data take the pictures' place, and the other way round.
        async strip() {
            const { pictures } = this.draft;
            await pictures.working(t("Making copies …"), async () => {
                const { upload } = await api("POST", `${this.base}/strip`);
                pictures.begin(upload, "");
                await pictures.load(0);
            });
        }

        async unstrip() {
            const { pictures } = this.draft;
            const { original } = this.said;
            await pictures.working(t("Going back to the originals …"), async () => {
                await api("POST", `rights/folders/${original}/strip/undo`);
                pictures.begin(original, "");
                await pictures.load(0);
            });
        }

        isOverridden(name) {
            return Boolean(this.said && this.said.marks[name] && this.said.marks[name].override);
        }

        // What stands against any training; nothing until the folder was looked through.
        stands() {
            const { said } = this;
            return said && !said.unread && said.total > 0 && !said.counts.included ? said.groups[0] : null;
        }

        // The mark on one picture: short words and how they are meant; nothing where it is as all the others.
        mark(name) {
            const { said } = this;
            if (!said) return null;
            const mark = said.marks[name];
            if (!mark) return this.isMixed() ? { text: this.usual(), kind: "" } : null;
            if (mark.override) return { text: t("used all the same"), kind: "is-hinted" };
            if (mark.rule) return { text: RULES[mark.rule] ? RULES[mark.rule][1]() : mark.rule, kind: "is-refused" };
            const words = mark.licence || (BASES[mark.basis] || (() => mark.basis))();
            return { text: mark.reservation === "allowed" ? `${words} · ${t("allows training")}` : words, kind: "" };
        }

        isMixed() {
            const { basis, licences, counts } = this.said;
            const licensed = Object.values(licences).reduce((sum, count) => sum + count, 0);
            return Object.keys(basis).length > 1 || Object.keys(licences).length > 1 || (licensed > 0 && licensed < counts.included);
        }

        usual() {
            const most = (counts) => Object.entries(counts || {}).sort((one, other) => other[1] - one[1]).map(([name]) => name)[0];
            const basis = most(this.said.basis);
            return most(this.said.licences) || (basis ? (BASES[basis] || (() => basis))() : "");
        }

        // Who states things here, once somebody said it.
        by(name) {
            return (name === undefined ? storage(BY) : storage(BY, name)) || "";
        }
    }

    // The pages of the program itself, in the reader's language.
    function guideUrl() {
        return `${window.atelier.PREFIX}rights/guide?lang=${window.atelier.lang()}`;
    }

    Object.assign(window.atelier, { Rights, BASES, RULES, guideUrl, permitsSaid });
})();
