// The embedded host's own page: its head, LoRA cards, "Try it now", and our labels in the reader's language.
(function () {
    "use strict";

    const { t, api, el, find, languages, replace, whenThere } = window.atelier;
    const MOST_CARDS = 60;

    // ------------------------------------------------------------------------------------------- the prompt

    function promptBox() {
        return find("atelier_prompt") && find("atelier_prompt").querySelector("textarea");
    }

    // Gradio listens to input events of a value that was set as a person's typing sets it.
    function setPrompt(text) {
        const box = promptBox();
        if (!box) return;
        Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, text);
        box.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function insert(lora) {
        const box = promptBox();
        if (!box) return;
        const trigger = lora.trigger && !box.value.includes(lora.trigger) ? `${lora.trigger} ` : "";
        const at = box.selectionStart ?? box.value.length;
        const gap = at > 0 && !/\s$/.test(box.value.slice(0, at)) ? " " : "";
        setPrompt(box.value.slice(0, at) + gap + trigger + lora.tag + box.value.slice(at));
        box.focus();
    }

    // Called by the result of a training: the other page, a prompt that calls the LoRA, and a picture.
    function tryIt(lora) {
        const tabs = [...document.querySelectorAll('button[role="tab"]')];
        const first = tabs.find((tab) => !tab.closest("#atelier_root"));
        if (first) first.click();
        window.setTimeout(() => {
            setPrompt(`${lora.trigger}, ${lora.tag}`);
            window.setTimeout(() => {
                press("atelier_generate");
            }, 300);
        }, 200);
    }

    // ---------------------------------------------------------------------------------------------- cards

    let place = null;

    async function refreshCards() {
        if (!place) return;
        try {
            await window.atelier.ready();
            const { loras } = await api("GET", "loras");
            draw(loras);
        } catch (error) {
            replace(place, window.atelier.errorBox(error));
        }
    }

    let known = [];
    let wanted = "";

    function draw(loras) {
        known = loras;
        const filter = el("input", { type: "search", class: "atelier-input", value: wanted, placeholder: t("Find a LoRA"), "aria-label": t("Find a LoRA") });
        filter.addEventListener("input", () => {
            wanted = filter.value;
            drawCards();
        });
        const heading = el(
            "div",
            { class: "atelier-cards-head" },
            el("h3", { text: t("LoRAs") }),
            loras.length > 8 && filter,
            el("button", { type: "button", class: "atelier-link", id: "atelier_refresh", onclick: refreshCards, text: t("Refresh") })
        );
        replace(place, heading, el("div", { class: "atelier-cards" }));
        drawCards();
    }

    function drawCards() {
        const row = place.querySelector(".atelier-cards");
        const fold = (text) => (text || "").normalize("NFKC").toLowerCase();
        const fitting = known.filter((lora) => fold(`${lora.name} ${lora.trigger}`).includes(fold(wanted.trim())));
        if (!known.length) {
            replace(row, el("p", { class: "atelier-hint", text: t("None yet. Train one in the LoRA Atelier tab, or put .safetensors files into the LoRA folder.") }));
            return;
        }
        const left = fitting.length - MOST_CARDS;
        replace(row, ...fitting.slice(0, MOST_CARDS).map(card), left > 0 && el("p", { class: "atelier-hint", text: t("and {count} more", { count: left }) }));
    }

    function card(lora) {
        return el(
            "button",
            { type: "button", class: `atelier-lora${lora.problem ? " is-broken" : ""}`, title: lora.problem || lora.tag, onclick: () => insert(lora) },
            lora.preview_url ? el("img", { src: "." + lora.preview_url, alt: "", loading: "lazy" }) : el("span", { class: "atelier-lora-blank", "aria-hidden": "true", text: "❖" }),
            el("strong", { text: lora.name }),
            el("small", { text: lora.problem || lora.trigger || "" })
        );
    }

    // ----------------------------------------------------------------------------------- Gradio's own labels

    const originals = new WeakMap();

    // Labels of Gradio components are text of its own making; each is looked up by its English.
    function translate(container) {
        const walker = document.createTreeWalker(container, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            if (node.parentElement.closest("textarea, code, pre, #atelier_root, #atelier_cards, #atelier_header, [data-atelier-said]")) continue;
            const kept = originals.get(node);
            const english = kept && kept.shown === node.nodeValue ? kept.english : node.nodeValue;
            const trimmed = english.trim();
            if (!trimmed) continue;
            const said = t(trimmed);
            const shown = english.replace(trimmed, () => said);
            originals.set(node, { english, shown });
            if (node.nodeValue !== shown) node.nodeValue = shown;
        }
        container.querySelectorAll("textarea[placeholder], input[placeholder]").forEach((box) => {
            if (box.closest("#atelier_root")) return;
            if (!box.dataset.atelierPlaceholder) box.dataset.atelierPlaceholder = box.placeholder;
            box.placeholder = t(box.dataset.atelierPlaceholder);
        });
    }

    whenThere("atelier_header", async (head) => {
        const drawHead = () =>
            replace(
                head,
                el("span", { class: "atelier-brand" }, el("span", { class: "atelier-brand-mark", "aria-hidden": "true", text: "❖" }), "LoRA Atelier"),
                el("span", { class: "atelier-hint", text: t("Base model: {name}", { name: window.atelier.modelTitle(head.dataset.model) }) }),
                languages()
            );
        await window.atelier.ready();
        window.atelier.onLanguage(drawHead);
        drawHead();
    });

    // As in A1111: Ctrl+Enter in a prompt draws.
    document.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
        if (!event.target.closest || !event.target.closest("#atelier_prompt, #atelier_negative")) return;
        event.preventDefault();
        press("atelier_generate");
    });

    function press(id) {
        const button = find(id);
        if (button) (button.querySelector("button") || button).click();
    }

    whenThere("atelier_cards", async (found) => {
        place = found;
        await window.atelier.ready();
        const page = document.querySelector("gradio-app") || document.body;
        let due = null;
        const later = () => {
            window.clearTimeout(due);
            due = window.setTimeout(() => translate(page), 60);
        };
        new MutationObserver(later).observe(page, { childList: true, subtree: true, characterData: true });
        window.atelier.onLanguage(() => {
            translate(page);
            refreshCards();
        });
        window.atelier.onBack(refreshCards);
        translate(page);
        refreshCards();
    });

    window.atelier.tryIt = tryIt;
    window.atelier.refreshCards = refreshCards;
})();
