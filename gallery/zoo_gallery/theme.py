"""How the gallery looks: one accent, the system's own fonts, and style.css beside this file."""

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("style.css")


def theme() -> gr.Theme:
    """Our theme; nothing in it is fetched from outside."""
    return gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # the stock values are too pale to read on white
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        color_accent="*primary_700",
        link_text_color="*primary_700",
        link_text_color_hover="*primary_800",
        link_text_color_active="*primary_700",
        link_text_color_visited="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover_dark="*primary_200",
        link_text_color_active_dark="*primary_300",
        link_text_color_visited_dark="*primary_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_cancel_background_fill="*neutral_200",
        button_cancel_background_fill_hover="*neutral_300",
        button_cancel_background_fill_dark="*neutral_700",
        button_cancel_background_fill_hover_dark="*neutral_600",
        button_cancel_border_color="*neutral_300",
        button_cancel_border_color_dark="*neutral_600",
        button_cancel_text_color="*neutral_900",
        button_cancel_text_color_dark="white",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        slider_color="*primary_600",
    )
