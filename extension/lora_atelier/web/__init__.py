"""JSON routes under ``/lora-atelier/v1/``: who may call them, what they take and what they give."""
