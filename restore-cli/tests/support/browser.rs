//! A headless Chromium that opens a page and answers questions about what it shows.
//!
//! It is led by the DevTools protocol over two pipes: messages are JSON that ends with a zero byte.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

/// Longest wait for one answer: the first comes when the browser has started.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// Where Debian puts it.
const PROGRAM: &str = "/usr/bin/chromium";

/// Why there is no browser here.
pub(crate) fn missing() -> Option<String> {
    (!Path::new(PROGRAM).exists()).then(|| format!("no {PROGRAM}"))
}

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    read: Vec<u8>,
    next: u64,
    session: Option<String>,
    folder: PathBuf,
}

impl Browser {
    /// Starts one that shows a page; `folder` is for its own files.
    pub(crate) fn open(page: &Path, folder: &Path, (width, height): (u32, u32)) -> Self {
        let folder = folder.join("browser");
        std::fs::create_dir(&folder).expect("a folder");
        let mut command = Command::new("sh");
        // The protocol is on descriptors 3 and 4.
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh", PROGRAM]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-dev-shm-usage", "--disable-background-networking"]);
        command.args(["--disable-component-update", "--disable-sync", "--hide-scrollbars"]);
        command.arg("--remote-debugging-pipe").arg(format!("--window-size={width},{height}"));
        command.arg(format!("--user-data-dir={}", folder.display()));
        command.env("HOME", &folder).stderr(Stdio::null());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("sh is part of every system");
        let to = child.stdin.take().expect("it is piped");
        let from = child.stdout.take().expect("it is piped");
        let mut browser =
            Self { child, to, from, read: Vec::new(), next: 1, session: None, folder };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.ask("Target.attachToTarget", attach);
        browser.session = Some(session["sessionId"].as_str().expect("a session").to_owned());
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        browser.ask("Emulation.setDeviceMetricsOverride", size);
        browser.ask("Page.enable", json!({}));
        let url = format!("file://{}", page.display());
        let came = browser.ask("Page.navigate", json!({ "url": url }));
        assert!(came.get("errorText").is_none(), "{came}");
        browser.wait_for("Page.loadEventFired");
        browser
    }

    /// The value of an expression on the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let args = json!({ "expression": expression, "returnByValue": true });
        let came = self.ask("Runtime.evaluate", args);
        assert!(came.get("exceptionDetails").is_none(), "{came}");
        came["result"]["value"].clone()
    }

    /// The whole page as PNG, in base64.
    pub(crate) fn screenshot(&mut self) -> String {
        let args = json!({ "format": "png", "captureBeyondViewport": true });
        let came = self.ask("Page.captureScreenshot", args);
        came["data"].as_str().expect("a picture").to_owned()
    }

    /// Sends a command and waits for its result.
    fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.next;
        self.next += 1;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser listens");
        loop {
            let came = self.hear(method);
            if came["id"] == json!(id) {
                assert!(came.get("error").is_none(), "{method}: {came}");
                return came["result"].clone();
            }
        }
    }

    fn wait_for(&mut self, event: &str) {
        while self.hear(event)["method"] != json!(event) {}
    }

    /// The next message.
    fn hear(&mut self, what: &str) -> Value {
        let deadline = Instant::now() + ANSWER_WAIT_MAX;
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == 0) {
                let rest = self.read.split_off(end + 1);
                let message = std::mem::replace(&mut self.read, rest);
                return serde_json::from_slice(&message[..end]).expect("JSON");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).expect("a minute");
            let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, left), Ok(1), "no answer to {what}");
            let mut bytes = vec![0; 1 << 16];
            let count = self.from.read(&mut bytes).expect("a pipe");
            assert!(count > 0, "the browser has ended before {what}");
            self.read.extend(&bytes[..count]);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
