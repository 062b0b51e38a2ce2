/* Browsers start no workers for pages opened from disk. The search of the theme runs in one, so it runs in a hidden frame there. */
(function () {
  "use strict";
  if (location.protocol !== "file:") return;
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.url = url;
      this.waiting = [];
      this.inner = null;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inner = frame.contentWindow;
      const outer = this;
      inner.document.open();
      inner.document.write("<!doctype html><html><body></body></html>");
      inner.document.close();
      inner.postMessage = function (data) {
        setTimeout(function () {
          outer.dispatchEvent(new MessageEvent("message", { data: data }));
        });
      };
      inner.importScripts = function () {
        const urls = Array.from(arguments, function (one) {
          return new URL(one, url).href;
        });
        return urls.reduce(function (before, one) {
          return before.then(function () {
            return load(inner.document, one);
          });
        }, Promise.resolve());
      };
      load(inner.document, url).then(function () {
        outer.inner = inner;
        outer.waiting.splice(0).forEach(function (data) {
          outer.postMessage(data);
        });
      });
    }
    postMessage(data) {
      if (!this.inner) this.waiting.push(data);
      else this.inner.dispatchEvent(new MessageEvent("message", { data: data }));
    }
    terminate() {}
    set onmessage(listener) {
      this.addEventListener("message", listener);
    }
    set onerror(listener) {
      this.addEventListener("error", listener);
    }
  }
  function load(page, url) {
    return new Promise(function (done, failed) {
      const script = page.createElement("script");
      script.src = url;
      script.onload = done;
      script.onerror = failed;
      page.body.appendChild(script);
    });
  }
  window.Worker = FrameWorker;
})();
