// ONNX files of this folder in ONNX Runtime (WebAssembly, one thread).

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

export const floats = (data, dims) => new ort.Tensor("float32", data, dims);
export const integers = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
export const gates = (subset) => new ort.Tensor("bool", Uint8Array.from(subset, Number), [subset.length]);

/** Return the text or the object of a file of this folder. Throws an error in words where it is not there. */
export const readText = async (path) => (await answer(path)).text();
export const readJson = async (path) => (await answer(path)).json();

/** Return the numbers of a file of this folder. */
export const readFloats = async (path) => new Float32Array(await readBytes(path));

/** Load a graph; `weights` is the file of its weights, if they are not in it. */
export async function loadGraph(path, weights) {
  const beside = weights && [{ path: weights.split("/").at(-1), data: new Uint8Array(await readBytes(weights)) }];
  const options = { executionProviders: ["wasm"], ...(beside && { externalData: beside }) };
  return ort.InferenceSession.create(new Uint8Array(await readBytes(path)), options);
}

const readBytes = async (path) => (await answer(path)).arrayBuffer();

async function answer(path) {
  const found = await fetch(new URL(path, import.meta.url)).catch(() => null);
  if (!found || !found.ok) throw new Error(`${path} cannot be had (${found ? found.status : "no answer"}); load the page again.`);
  return found;
}
