// What the other scripts stand on: the language, calls to our routes, small helpers for the page.
// Everything of ours lives under window.atelier; nothing is done before the page is there.
(function () {
    "use strict";

    const PREFIX = "./lora-atelier/v1/";
    const KNOCK_MS = 2000;
    // Answers of something between us and the program, or of a webui that is just starting: none of ours is bare.
    const NOT_OURS = new Set([404, 502, 503, 504]);
    const state = { token: "", lang: "en", dictionary: {}, listeners: [], lost: false, back: [] };

    // ---------------------------------------------------------------------------------------------- language

    function t(template, values) {
        const said = state.dictionary[template] || template;
        return said.replace(/\{(\w+)\}/g, (hole, name) => (values && name in values ? String(values[name]) : hole));
    }

    function preferred() {
        const kept = storage("atelier_lang");
        if (kept === "en" || kept === "ja") return kept;
        return (navigator.language || "").toLowerCase().startsWith("ja") ? "ja" : "en";
    }

    // What this browser keeps: for ever, or (``kept``: "sessionStorage") as long as this tab is open.
    function storage(key, value, kept) {
        try {
            const place = window[kept || "localStorage"];
            if (value === undefined) return place.getItem(key);
            place.setItem(key, value);
        } catch (error) {
            // A browser that keeps nothing loses a choice, no more.
        }
        return null;
    }

    async function setLanguage(lang) {
        state.lang = lang;
        storage("atelier_lang", lang);
        document.cookie = `atelier_lang=${lang}; path=/; SameSite=Strict`;
        document.documentElement.lang = lang;
        state.dictionary = lang === "en" ? {} : (await api("GET", `locales/${lang}`)).entries;
        state.listeners.forEach((listener) => listener());
    }

    // -------------------------------------------------------------------------------------------------- calls

    class ApiError extends Error {
        constructor(said, status) {
            super([said.what, said.why, said.todo].filter(Boolean).join(" "));
            this.said = said;
            this.status = status;
        }
    }

    async function api(method, path, body, again) {
        const headers = { "X-Atelier-Lang": state.lang };
        if (method !== "GET") headers["X-Atelier-Token"] = state.token;
        const options = { method, headers, credentials: "same-origin" };
        if (body instanceof Blob || body instanceof FormData) options.body = body;
        else if (body !== undefined) {
            headers["Content-Type"] = "application/json";
            options.body = JSON.stringify(body);
        }
        let answer;
        try {
            answer = await fetch(PREFIX + path, options);
        } catch (error) {
            throw lost();
        }
        const data = await answer.json().catch(() => ({}));
        if (answer.ok) return data;
        if (!data.error && NOT_OURS.has(answer.status)) throw lost();
        if (answer.status === 403 && method !== "GET" && !again) {
            // The program was started again since this page was opened: its token is another one now.
            await session();
            return api(method, path, body, true);
        }
        throw new ApiError(data.error || { what: `${answer.status} ${answer.statusText}` }, answer.status);
    }

    // Nobody answers. From now on it is asked for until it does; then all who want to know are told.
    function lost() {
        if (!state.lost) {
            state.lost = true;
            window.setTimeout(knock, KNOCK_MS);
        }
        const offline = navigator.onLine === false;
        return new ApiError(
            offline
                ? { what: t("This browser has no connection."), why: t("A training goes on without it."), todo: t("This page goes on as soon as there is one again.") }
                : { what: t("The program does not answer."), why: "", todo: t("Start it again; this page then goes on.") },
            0
        );
    }

    async function knock() {
        try {
            await session();
        } catch (error) {
            if (!error.status) {
                window.setTimeout(knock, KNOCK_MS);
                return;
            }
        }
        state.lost = false;
        state.back.forEach((listener) => listener());
    }

    async function session() {
        const said = await api("GET", "session");
        state.token = said.token;
        return said;
    }

    // ------------------------------------------------------------------------------------------------ elements

    // el("p", {class: "x", onclick: f, text: "…"}, child, "text", …); text is never read as HTML.
    function el(tag, attributes, ...children) {
        const made = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes || {})) {
            if (value === undefined || value === null || value === false) continue;
            if (name === "text") made.textContent = value;
            else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
            else made.setAttribute(name, value === true ? "" : value);
        }
        made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
        return made;
    }

    function svg(tag, attributes, ...children) {
        const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
        made.append(...children);
        return made;
    }

    function replace(parent, ...children) {
        parent.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
    }

    // "3 minutes"; seconds only where they matter.
    function duration(seconds) {
        const [whole, minutes] = [Math.max(1, Math.round(seconds)), Math.round(seconds / 60)];
        if (seconds < 60) return whole === 1 ? t("1 second") : t("{count} seconds", { count: whole });
        if (seconds < 5400) return minutes === 1 ? t("1 minute") : t("{count} minutes", { count: minutes });
        return t("{count} hours", { count: (seconds / 3600).toFixed(1) });
    }

    // "3.2 GB"
    function bytes(count) {
        if (count >= 1e9) return `${(count / 1e9).toFixed(1)} GB`;
        return count >= 1e7 ? `${Math.round(count / 1e6)} MB` : `${(count / 1e6).toFixed(1)} MB`;
    }

    function button(text, onclick, attributes) {
        const { kind, ...rest } = attributes || {};
        return el("button", { type: "button", class: `atelier-button${kind ? ` ${kind}` : ""}`, onclick, text, ...rest });
    }

    function link(text, onclick, attributes) {
        return el("button", { type: "button", class: "atelier-link", onclick, text, ...attributes });
    }

    // Buttons of the languages there are; each is written in its own.
    function languages() {
        const choice = (lang, name) =>
            el("button", {
                type: "button",
                lang,
                class: `atelier-link${state.lang === lang ? " is-chosen" : ""}`,
                "aria-pressed": String(state.lang === lang),
                onclick: () => setLanguage(lang),
                text: name,
            });
        return el("nav", { class: "atelier-languages", "aria-label": "Language / 言語" }, choice("en", "English"), choice("ja", "日本語"));
    }

    function errorBox(error) {
        const said = error.said || { what: error.message };
        const rest = [said.why, said.todo].filter(Boolean).join(" ");
        return el("div", { class: "atelier-error", role: "alert" }, el("strong", { text: said.what }), rest ? " " + rest : "");
    }

    function root() {
        return typeof gradioApp === "function" ? gradioApp() : document;
    }

    function find(id) {
        return root().querySelector(`#${id}`) || document.getElementById(id);
    }

    // Calls back whenever the element appears (webuis move and rebuild parts of their page).
    function whenThere(id, use) {
        const seen = new WeakSet();
        function look() {
            const found = find(id);
            if (found && !seen.has(found)) {
                seen.add(found);
                use(found);
            }
        }
        new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
        if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", look);
        else look();
    }

    // The colour that an element stands on, as [red, green, blue]; null where nothing behind it is painted.
    function groundOf(element) {
        for (let at = element.parentElement; at; at = at.parentElement) {
            const parts = getComputedStyle(at).backgroundColor.match(/[\d.]+/g).map(Number);
            if (parts.length === 3 || parts[3] > 0.5) return parts.slice(0, 3);
        }
        return null;
    }

    // Ours are the colours of a dark page or of a light one, by the host's own ground: not every theme says which it is.
    function dress(element) {
        const look = () => {
            const ground = element.isConnected && groundOf(element);
            if (!ground) return;
            const light = (0.2126 * ground[0] + 0.7152 * ground[1] + 0.0722 * ground[2]) / 255;
            element.classList.toggle("is-dark", light < 0.45);
        };
        let due = null;
        const soon = () => {
            window.clearTimeout(due);
            due = window.setTimeout(look, 100); // themes are links that arrive, and some fade
        };
        const themes = new MutationObserver(soon);
        for (const at of [document.documentElement, document.body]) themes.observe(at, { attributes: true, attributeFilter: ["class", "style", "data-theme"] });
        themes.observe(document.head, { childList: true });
        window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
        document.addEventListener("transitionend", (event) => event.target === document.body && soon());
        window.addEventListener("load", soon);
        look();
    }

    // Names of models are names; only our own has one in each language.
    function modelTitle(title) {
        return title === "LoRA Atelier's embedded model" ? t("LoRA Atelier's embedded model") : title;
    }

    async function start() {
        await session();
        await setLanguage(preferred());
    }

    let started = null;

    // One start for all who ask; one that failed is tried again by the next who asks.
    function ready() {
        started = started || start();
        started.catch(() => (started = null));
        return started;
    }

    window.atelier = {
        t,
        api,
        el,
        svg,
        find,
        replace,
        duration,
        bytes,
        button,
        link,
        errorBox,
        languages,
        dress,
        storage,
        modelTitle,
        whenThere,
        setLanguage,
        PREFIX,
        lang: () => state.lang,
        onBack: (listener) => state.back.push(listener),
        onLanguage: (listener) => state.listeners.push(listener),
        ready,
        refreshSession: session,
    };
})();
