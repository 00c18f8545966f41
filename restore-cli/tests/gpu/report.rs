//! The report of a restore as browsers show it: its timeline is that of the trace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use super::cycle::Tree;
use super::roundtrip::{ELSEWHERE, EXAMPLE};
use super::support::browser::{self, Browser};
use super::support::{live_node, skip};

/// A bar as the page has it, and where it is drawn.
#[derive(Debug)]
struct Bar {
    key: Key,
    left: f64,
    width: f64,
}

/// What an event is known by: stage, process, step, begin, end, outcome.
type Key = (String, i64, Option<String>, u64, u64, String);

const READ_BARS: &str = "
    [...document.querySelectorAll('#timeline g[data-panel=time] rect[data-begin-ns]')].map(bar => {
        const box = bar.getBoundingClientRect();
        return { ...bar.dataset, left: box.left, width: box.width };
    })";

fn bars(page: &mut Browser) -> Vec<Bar> {
    let value = page.evaluate(READ_BARS);
    let text = |bar: &Value, name: &str| bar[name].as_str().map(str::to_owned);
    let number = |bar: &Value, name: &str| -> u64 {
        text(bar, name).and_then(|text| text.parse().ok()).expect("a number")
    };
    let bar = |bar: &Value| Bar {
        key: (
            text(bar, "stage").expect("a stage"),
            number(bar, "process") as i64,
            text(bar, "step"),
            number(bar, "beginNs"),
            number(bar, "endNs"),
            text(bar, "outcome").expect("an outcome"),
        ),
        left: bar["left"].as_f64().expect("a place"),
        width: bar["width"].as_f64().expect("a width"),
    };
    value.as_array().expect("a list").iter().map(bar).collect()
}

/// The events of a trace: the lines after the first.
fn events(path: &Path) -> Vec<Key> {
    let text = fs::read_to_string(path).expect("a trace");
    let lines = text.lines().skip(1).map(|line| -> Value { line.parse().expect("JSON") });
    let text = |line: &Value, name: &str| line[name].as_str().map(str::to_owned);
    lines
        .map(|line| {
            (
                text(&line, "stage").expect("a stage"),
                line["process"].as_i64().expect("a process"),
                text(&line, "step"),
                line["begin_ns"].as_u64().expect("a time"),
                line["end_ns"].as_u64().expect("a time"),
                text(&line, "outcome").expect("an outcome"),
            )
        })
        .collect()
}

#[test]
fn timeline_in_a_browser_is_that_of_the_trace() {
    let name = "report::timeline_in_a_browser_is_that_of_the_trace";
    if let Some(reason) = browser::missing() {
        return skip(name, &reason);
    }
    live_node(name, |_| {
        // A place with a short name, which only this namespace sees.
        let dir = Path::new("/srv");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        let tree = Tree::new(dir, "--gpus 2", &EXAMPLE);
        let before = tree.dump();
        let path = |name: &str| dir.join(name).display().to_string();
        // Each restore of these tests writes its trace there.
        let [page, data, trace] = [path("run.html"), path("run.json"), path("trace")];
        let args = ["--report", &page, "--report", &data];
        tree.restore_well(&before, ELSEWHERE, &args);
        let mut browser = Browser::open(Path::new(&page), dir, (1400, 900));
        let (mut shown, mut told) = (bars(&mut browser), events(Path::new(&trace)));
        assert!(told.len() > 12, "{told:?}");
        shown.sort_by(|one, other| one.key.cmp(&other.key));
        told.sort();
        assert_eq!(shown.iter().map(|bar| bar.key.clone()).collect::<Vec<_>>(), told);
        assert_to_scale(&shown);
        assert_tables(&mut browser, Path::new(&data));
        // It needs nothing else, and says nothing went wrong.
        let loaded = browser.evaluate("performance.getEntriesByType('resource').length");
        assert_eq!(loaded, 0, "the page needs nothing but itself");
        assert_eq!(browser.evaluate("document.querySelectorAll('.failure').length"), 0);
        if let Some(to) = std::env::var_os("THAW_SCREENSHOT") {
            let picture = BASE64.decode(browser.screenshot()).expect("base64");
            fs::write(to, picture).expect("it can be written");
        }
    });
}

/// Places on the screen are times, by one scale for all bars.
fn assert_to_scale(bars: &[Bar]) {
    let begin = bars.iter().map(|bar| bar.key.3).min().expect("there are bars");
    let end = bars.iter().map(|bar| bar.key.4).max().expect("there are bars");
    let first = bars.iter().find(|bar| bar.key.3 == begin).expect("it is one of them");
    let longest = bars.iter().max_by_key(|bar| bar.key.3).expect("there are bars");
    let scale = (longest.left - first.left) / (longest.key.3 - begin) as f64;
    assert!(scale > 0.0 && end > begin);
    for bar in bars {
        let place = first.left + (bar.key.3 - begin) as f64 * scale;
        assert!((bar.left - place).abs() < 1.5, "{bar:?} should begin at {place}");
        // Bars are kept apart by a pixel, and the shortest is still seen.
        let width = (bar.key.4 - bar.key.3) as f64 * scale;
        let is_seen = bar.width >= 0.5 && bar.width <= (width + 1.5).max(2.5);
        assert!(is_seen && bar.width >= width - 2.0, "{bar:?} should have a width of {width}");
    }
}

/// Tree and stages on the page are those of the JSON, which is also in the page.
fn assert_tables(browser: &mut Browser, data: &Path) {
    let report: Value =
        serde_json::from_str(&fs::read_to_string(data).expect("a report")).expect("JSON");
    assert_eq!((&report["format"], &report["version"]), (&"thaw report".into(), &1.into()));
    let inside = browser.evaluate("document.getElementById('report').textContent");
    let inside: Value = serde_json::from_str(inside.as_str().expect("a text")).expect("JSON");
    assert_eq!(inside, report);
    let cells = "[...document.querySelectorAll('#tree tr')].slice(1)
        .map(row => [0, 1, 2].map(cell => row.cells[cell].innerText.trim()))";
    let shown = browser.evaluate(cells);
    let shown: Vec<[String; 3]> = serde_json::from_value(shown).expect("rows of texts");
    let told = report["processes"].as_array().expect("a list").iter().map(|process| {
        [&process["pid"], &process["name"], &process["threads"]]
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    assert_eq!(shown, told.collect::<Vec<_>>());
    let stages = "[...document.querySelectorAll('#stages tr[data-ns]')]
        .map(row => [row.cells[0].innerText, Number(row.dataset.ns)])";
    let shown: BTreeMap<String, u64> =
        serde_json::from_value::<Vec<(String, u64)>>(browser.evaluate(stages))
            .expect("rows")
            .into_iter()
            .collect();
    let told: BTreeMap<String, u64> = report["stages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|stage| {
            let name = stage["name"].as_str().expect("a name").to_owned();
            (name, stage["ns"].as_u64().expect("a time"))
        })
        .collect();
    assert!(told.len() >= 8, "{told:?}");
    assert_eq!(shown, told);
}
