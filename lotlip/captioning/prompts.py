"""From a captioner's prompt and template to the text that its processor gets. Alt texts never enter it."""

from typing import Any

from lotlip.errors import ModelError, ParamsError

IMAGE = "<image>"


def check_prompt(prompt: str, template: str | None) -> None:
    """Refuse a prompt that brings its own image token, and a template without a place for the prompt.

    Raises:
        ParamsError: with the line to write instead.
    """
    if IMAGE in prompt:
        raise ParamsError(f"The prompt {prompt!r} holds {IMAGE}: the image's place belongs into `template`.")
    if template is not None and "{prompt}" not in template:
        raise ParamsError(
            f"The template {template!r} has no {{prompt}}: write e.g. "
            f"'USER: {IMAGE}\\n{{prompt}} ASSISTANT:', or null for the checkpoint's own chat template."
        )


def render_prompt(prompt: str, template: str | None, processor: Any) -> str:
    """The text for one image: the template filled in, or the checkpoint's chat template.

    Raises:
        ModelError: `template` is null and the checkpoint has no chat template.
    """
    if template is not None:
        image_token = str(getattr(processor, "image_token", IMAGE))
        return template.replace(IMAGE, image_token).replace("{prompt}", prompt)
    if getattr(processor, "chat_template", None) is None:
        raise ModelError(
            "The checkpoint has no chat template: set the captioner's `template` in params.yaml, e.g. "
            f"'USER: {IMAGE}\\n{{prompt}} ASSISTANT:' (LLaVA-1.5) or '{{prompt}}' (InstructBLIP)."
        )
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    )
