//! SVG text, element by element, with coordinates in pixels.
//!
//! Colours are classes with plain fills and strokes, no variables: not every viewer knows those.
//! A viewer that does not know about dark screens shows the light picture.

use std::fmt::Write;

use crate::markup::escape;

/// Where the given point is in a text.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

const STYLE: &str = "\
text{font-family:system-ui,'Segoe UI','DejaVu Sans',sans-serif}
.title{font-size:20px;font-weight:600}.head{font-size:16px;font-weight:600}
.strong{font-size:13px;font-weight:600}.plain{font-size:12px}.small{font-size:11px}
.b12{font-size:12px;font-weight:600}.b10{font-size:10px;font-weight:600}
.on{fill:#fff}.bg{fill:#fff}.ink{fill:#1f2328}.dim{fill:#59636e}.lane{fill:#f3f5f8}
.grid{stroke:#d5dbe2;fill:none}.mark{stroke:#59636e;stroke-dasharray:3 3;fill:none}
.kfd{fill:#7647c4}.render{fill:#1c66d6}.dmabuf{fill:#b35900}.receive{fill:#59636e}
.g0{fill:#0f9d8a}.g1{fill:#d98e04}.g2{fill:#c2378f}.g3{fill:#5a9216}
.g4{fill:#0b8ec2}.g5{fill:#b5543a}.g6{fill:#5b62d6}.g7{fill:#8a8f00}
.create{fill:#b4bdc8}.build{fill:#d3d9e0}.freeze{fill:#9fc9f5}.resume{fill:#4ac26b}
.release{fill:#1a7f37}.good{fill:#1a7f37}.warn{fill:#9a6700}.bad{fill:#cf222e}
.failed{fill:#cf222e;stroke:#82071e;stroke-width:2}
.edge{stroke:#1f2328;fill:none;stroke-width:1.3}.faint{stroke-opacity:.4}
.tip{fill:#1f2328}
@media(prefers-color-scheme:dark){
.bg{fill:#0d1117}.ink{fill:#e6edf3}.dim{fill:#9198a1}.lane{fill:#161b22}
.grid{stroke:#2d343d}.mark{stroke:#9198a1}
.create{fill:#59636e}.build{fill:#3d444d}.freeze{fill:#1f5a99}.resume{fill:#238636}
.release{fill:#2ea043}.good{fill:#3fb950}.warn{fill:#d29922}.bad{fill:#f85149}
.edge{stroke:#e6edf3}.tip{fill:#e6edf3}}
";

/// A picture that grows downwards.
pub(super) struct Canvas {
    width: f64,
    body: String,
}

impl Canvas {
    pub(super) fn new(width: f64) -> Self {
        Self { width, body: String::new() }
    }

    /// The file, when it is known how high it is.
    pub(super) fn finish(self, height: f64) -> String {
        let (width, body) = (self.width, self.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\">\n<style>\n{STYLE}</style>\n<defs><marker \
             id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
             markerHeight=\"7\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
             <path class=\"tip\" d=\"M0,0L8,4L0,8z\"/></marker></defs>\n\
             <rect class=\"bg\" width=\"{width:.0}\" height=\"{height:.0}\"/>\n{body}</svg>\n"
        )
    }

    pub(super) fn rect(&mut self, at: (f64, f64), size: (f64, f64), round: f64, class: &str) {
        self.titled_rect(at, size, round, class, "");
    }

    /// A rectangle with a text for pointers.
    pub(super) fn titled_rect(
        &mut self,
        at: (f64, f64),
        size: (f64, f64),
        round: f64,
        class: &str,
        title: &str,
    ) {
        self.bar(at, size, round, class, title, "");
    }

    /// The same for what stands for an event: `data` are attributes that say which.
    pub(super) fn bar(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        round: f64,
        class: &str,
        title: &str,
        data: &str,
    ) {
        let round = round.min(width / 2.0);
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" rx=\"{round:.1}\"{data}"
        );
        match title {
            "" => self.body.push_str("/>\n"),
            title => {
                let _ = writeln!(self.body, "><title>{}</title></rect>", escape(title));
            }
        }
    }

    /// What follows belongs to a part of the picture with this name.
    pub(super) fn begin_group(&mut self, name: &str) {
        let _ = writeln!(self.body, "<g data-panel=\"{name}\">");
    }

    /// It ends here.
    pub(super) fn end_group(&mut self) {
        self.body.push_str("</g>\n");
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"/>"
        );
    }

    /// A text; the point is on its base line.
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
             pointer-events=\"none\">{text}</text>"
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let (x1, y1, x2, y2) = (from.0, from.1, to.0, to.1);
        let _ =
            writeln!(self.body, "<path class=\"{class}\" d=\"M{x1:.1},{y1:.1}L{x2:.1},{y2:.1}\"/>");
    }

    /// An arrow that leaves and arrives upright.
    pub(super) fn arrow(&mut self, from: (f64, f64), to: (f64, f64), class: &str, title: &str) {
        let bend = (from.1 + to.1) / 2.0;
        let path = format!(
            "M{:.1},{:.1}C{:.1},{bend:.1} {:.1},{bend:.1} {:.1},{:.1}",
            from.0, from.1, from.0, to.0, to.0, to.1
        );
        let title = escape(title);
        let _ = writeln!(
            self.body,
            "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#tip)\">\
             <title>{title}</title></path>"
        );
    }
}

/// About how wide a text of this size is: an average of proportional fonts.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.58
}
