// A dial: a range input that moves over a list of values, such as the depths of a model, and says each in words.

/** Make `input` a dial over `values`, at the last of them. `say(value)` is its text, which `output` shows too.
 *  `changed(value)` is called when it is set, not while it moves. Returns a function that gives the value. */
export function dial(input, output, values, say, changed) {
  const value = () => values[Number(input.value)];
  const show = () => {
    output.textContent = say(value());
    input.setAttribute("aria-valuetext", say(value()));
  };
  Object.assign(input, { min: 0, max: values.length - 1, step: 1, value: values.length - 1 });
  input.addEventListener("input", show);
  input.addEventListener("change", () => changed(value()));
  show();
  return value;
}
