//! `thaw generate`: what there is, and how it begins; all of it comes from what `--help` shows.

use crate::scene::Scene;

#[test]
fn man_pages_are_written() {
    let mut scene = Scene::fixed();
    scene.folder("man");
    scene.run("thaw generate man man; ls man").run("head -n 60 man/thaw.1");
    scene.run("thaw generate man nowhere");
    scene.shot("generate_man");
}

#[test]
fn completions_and_options_are_printed() {
    let mut scene = Scene::fixed();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        scene.run(&format!("thaw generate completions {shell} | head -n 12"));
    }
    scene.run("thaw generate options | head -c 600");
    scene.shot("generate");
}
