// Runs in the thread of the sound: it sends what comes, copied, for the browser uses the same array again.
registerProcessor("capture", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});
