//! Progress as a terminal shows it, and as it is told elsewhere.
//!
//! A call of the driver that takes its time makes a restore one that people watch.

use crate::scene::Scene;
use crate::support::live_node;

/// Makes a small tree in a node, dumps it, and restores it while a device is slow.
fn slow_restore(scene: &mut Scene, delay: &str, restore: &str) -> String {
    let job = "mkfifo ready; mkdir images; \
        gpu_tree $PWD/status 'kfd render:0 vram:0:64K' < /dev/null > ready 2> /dev/null & \
        cat ready; thaw dump -t $! -D images -v0; wait; ";
    let slow = format!("thaw node fault CRIU_RESTORE={delay} > /dev/null; ");
    std::fs::write(scene.folder("job").join("job.sh"), format!("{job}{slow}{restore}"))
        .expect("room");
    scene.printed("thaw node run -- sh job/job.sh")
}

#[test]
fn terminal_has_bars_that_go_away() {
    live_node("progress::terminal_has_bars_that_go_away", |dir| {
        let mut scene = Scene::live(dir, &[]);
        let restore =
            "script -qec 'stty cols 100 rows 25; thaw restore -d -D images' /dev/null < /dev/null";
        let text = slow_restore(&mut scene, "600ms", restore);
        let bar = text.find("restore [").unwrap_or_else(|| panic!("no bar: {text:?}"));
        assert!(text[bar..].contains(" of ") && text[bar..].contains(": "), "{text:?}");
        // What was drawn is wiped away before the summary is written.
        let summary = text.find("restored").unwrap_or_else(|| panic!("no summary: {text:?}"));
        let between = &text[bar..summary];
        assert!(between.contains("\u{1b}[2K") || between.contains("\u{1b}[K"), "{text:?}");
        assert!(!text[summary..].contains("restore ["), "{text:?}");
    });
}

#[test]
fn elsewhere_there_is_now_and_then_a_line() {
    live_node("progress::elsewhere_there_is_now_and_then_a_line", |dir| {
        let mut scene = Scene::live(dir, &[]);
        let text = slow_restore(&mut scene, "5200ms", "thaw restore -d -D images");
        let lines: Vec<&str> = text.lines().collect();
        let line = lines.iter().find(|line| line.starts_with("thaw: restore: "));
        let line = line.unwrap_or_else(|| panic!("no line: {text:?}"));
        assert!(line.contains(" of ") && line.contains(" after 5."), "{line}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let quiet = slow_restore_again(&mut scene);
        assert_eq!(quiet, "", "-v0 tells nothing");
    });
}

/// The same where nothing is to be said.
fn slow_restore_again(scene: &mut Scene) -> String {
    let job = "thaw node fault CRIU_RESTORE=600ms > /dev/null; thaw restore -d -D images -v0";
    std::fs::write(scene.folder("job").join("again.sh"), job).expect("room");
    scene.printed("thaw node run -- sh job/again.sh")
}
