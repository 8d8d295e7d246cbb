// SPDX-License-Identifier: Apache-2.0
// Browsers start no worker for a page that is a file; there the search runs in a hidden frame.
if (location.protocol === 'file:') {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      inside.document.open();
      inside.document.write('<html><body></body></html>');
      inside.document.close();
      inside.postMessage = data => this.dispatchEvent(new MessageEvent('message', {data}));
      const script = inside.document.createElement('script');
      script.src = url;
      const ready = new Promise(resolve => { script.onload = resolve; });
      inside.document.body.appendChild(script);
      this.postMessage = data => ready.then(
        () => inside.dispatchEvent(new MessageEvent('message', {data})));
      this.terminate = () => frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
