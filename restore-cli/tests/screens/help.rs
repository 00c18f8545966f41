//! Help of every command, long and short, and of the main ones on narrow and wide terminals.

use crate::coverage::commands;
use crate::scene::Scene;

/// Commands that people meet first.
const MAIN: [&str; 6] =
    ["thaw", "thaw dump", "thaw restore", "thaw check", "thaw show", "thaw node run"];

/// What a snapshot of the help of a command is called.
pub(crate) fn name(command: &str) -> String {
    format!("help-{}", command.replace(' ', "-"))
}

#[test]
fn every_command_has_a_help() {
    for (command, _) in commands() {
        let mut scene = Scene::fixed();
        scene.run(&format!("{command} --help")).run(&format!("{command} -h"));
        scene.shot(&name(&command));
    }
}

#[test]
fn helps_adapt_to_narrow_and_wide_terminals() {
    for command in MAIN {
        for width in [40, 80, 140] {
            let mut scene = Scene::fixed();
            scene.run(&format!("{command} --help --width {width}"));
            scene.shot(&format!("{}.{width}", name(command)));
        }
    }
}

#[test]
fn help_has_colours_where_they_are_wanted() {
    let mut scene = Scene::fixed();
    for line in [
        "thaw trace --help --color always",
        "thaw trace --help --color never",
        "thaw trace --help --color auto",
        "NO_COLOR=1 thaw trace --help",
        "CLICOLOR_FORCE=1 thaw trace --help",
    ] {
        scene.run(line);
    }
    scene.shot("help_colors");
}

#[test]
fn version_says_what_it_speaks() {
    let mut scene = Scene::fixed();
    scene.run("thaw --version").run("thaw -V").shot("version");
}
