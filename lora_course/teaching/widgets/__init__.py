"""Pictures that answer when you move something, and how an author places one into a lesson.

Each file is one widget, and holds three things:

    draw(state) -> Picture      pure: an SVG string, and a sentence with the numbers that it shows
    explore() -> Panel          sliders over it; what the notebook displays
    static() -> Picture         one telling state, for whoever reads without a kernel

In a lesson, two cells and a task to try:

    # %% [markdown]
    # **Try it.** Move *outlier* from 0 to 20 with block 1024, then with block 32. What happens to the other weights?

    # %%
    from lora_course.teaching.widgets import quantization_explorer
    quantization_explorer.static()

    # %%
    quantization_explorer.explore()

`lora-course build` saves the first picture, as an image with a text alternative, and takes the live widget out, since a
saved one shows nothing without its kernel. So say in prose only what the static picture shows. Give the static cell its
own code: `static(...)` takes what the lesson computed, where a widget draws what it is given (rank_explorer). Tag
neither cell `nbval-check-output`.

Own widgets: write `draw` first and test it alone; then `Panel(draw, control=...)`, whose controls are the names of
draw's arguments. An error in `draw` is shown in place of the picture and raised, so a test that sets
`panel.controls["bits"].value = 7` fails with it. Colour says nothing that a word or a shape does not say too.
"""
