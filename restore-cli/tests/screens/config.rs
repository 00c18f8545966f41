//! Configuration files: what they set, and what is said of a wrong one.

use crate::scene::Scene;

#[test]
fn configuration_is_taken_or_refused_by_name() {
    let mut scene = Scene::fixed();
    scene.folder("empty");
    for line in [
        "printf 'width = 60\\n' > good.toml; thaw restore -D empty --config good.toml",
        "thaw restore -D empty --config good.toml --width 140",
        "thaw restore -D empty --no-default-config",
        "printf 'colour = \"never\"\\n' > name.toml; thaw restore -D empty --config name.toml",
        "printf '[restore]\\nworkers = 1.5\\n' > type.toml; \
         thaw restore -D empty --config type.toml",
        "printf '[dump]\\nroot = \"/x\"\\n' > other.toml; thaw show -D empty --config other.toml",
        "printf '[restore' > syntax.toml; thaw restore -D empty --config syntax.toml",
        "thaw restore -D empty --config nowhere.toml",
    ] {
        scene.run(line);
    }
    scene.shot("config");
}
