// Sound from the microphone as samples at 16 kHz, one channel.

export const RATE = 16000;

/** Open the microphone; `heard(samples)` gets what comes. Returns a function that closes it. */
export async function openMicrophone(heard) {
  if (!navigator.mediaDevices) {
    throw new Error("The microphone needs https, or a page of this machine; choose a file.");
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } }).catch((problem) => {
    throw new Error(`The microphone cannot be used (${problem.message}); allow it, or choose a file.`);
  });
  const context = new AudioContext({ sampleRate: RATE });
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    return context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    capture.port.onmessage = ({ data }) => heard(data);
    context.createMediaStreamSource(stream).connect(capture);
  } catch (problem) {
    await close();
    throw problem;
  }
  return close;
}
