//! The layer check: a crate uses only what stands below it (ARCHITECTURE.md, Layers), and the crates of L1 to L3 depend on
//! nothing that brings a runtime, a socket, a file or a thread with it.
//!
//! Each crate says its layer itself, in `package.metadata.plinth.layer`. Layers are ordered L1 < L2 < L3 < L4 < L5 < T;
//! within one layer a crate stands beside the others and may not use them, with three exceptions that the layers' table names:
//! `base` stands below the rest of L1, `reactor` below the engines of L4, and `plinth`, the one binary, above the rest of L5.
//! Crates of T are tests: they may use all of the others, and one another.

use std::fmt;

/// A layer, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Common ground.
    L1,
    /// Formats: bytes to types and back.
    L2,
    /// Machines without input and output of their own.
    L3,
    /// Engines: threads, sockets, disks.
    L4,
    /// Commands.
    L5,
    /// Tests.
    T,
}

impl Layer {
    /// The layer of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "L1" => Self::L1,
            "L2" => Self::L2,
            "L3" => Self::L3,
            "L4" => Self::L4,
            "L5" => Self::L5,
            "T" => Self::T,
            _ => return None,
        })
    }

    /// Whether crates of this layer must be free of input and output.
    pub fn sans_io(self) -> bool {
        self <= Self::L3
    }
}

/// One dependency of a crate, as its manifest names it.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// The package.
    pub name: String,
    /// Whether it is a crate of this workspace.
    pub workspace: bool,
    /// Whether only the crate's own tests use it.
    pub dev: bool,
}

/// One crate of the workspace.
#[derive(Clone, Debug)]
pub struct Crate {
    /// The package.
    pub name: String,
    /// What `package.metadata.plinth.layer` says.
    pub layer: Option<String>,
    /// Its direct dependencies.
    pub dependencies: Vec<Dependency>,
}

/// A rule that is broken.
#[expect(missing_docs, reason = "each variant names its fields in its text")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The crate says no layer.
    NoLayer { name: String },
    /// The crate says a layer that there is not.
    UnknownLayer { name: String, layer: String },
    /// The crate uses one that does not stand below it.
    Upward { name: String, layer: Layer, uses: String, uses_layer: Layer },
    /// A crate of L1 to L3 depends on something that does input and output.
    Io { name: String, layer: Layer, uses: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLayer { name } => {
                write!(
                    f,
                    "{name}: no layer; add [package.metadata.plinth] layer = \"L1\" to \"L5\", or \"T\" for tests, to its Cargo.toml"
                )
            }
            Self::UnknownLayer { name, layer } => {
                write!(f, "{name}: layer {layer:?} is none of L1, L2, L3, L4, L5, T")
            }
            Self::Upward { name, layer, uses, uses_layer } => {
                write!(
                    f,
                    "{name} ({layer:?}) uses {uses} ({uses_layer:?}); it may use only what stands below it"
                )
            }
            Self::Io { name, layer, uses } => write!(
                f,
                "{name} ({layer:?}) depends on {uses}; L1 to L3 do no input and output, move that part to an engine (L4)"
            ),
        }
    }
}

/// Packages that bring a runtime, sockets, files or threads; no direct dependency of L1 to L3.
pub const IO_PACKAGES: &[&str] = &[
    "async-io",
    "async-std",
    "crossbeam-channel",
    "io-uring",
    "libc",
    "memmap2",
    "mio",
    "nix",
    "polling",
    "rayon",
    "rustix",
    "smol",
    "socket2",
    "tokio",
    "tokio-util",
];

/// Where a crate stands within its layer.
fn rank(name: &str) -> u8 {
    match name {
        "plinth-base" | "plinth-reactor" => 0,
        "plinth" => 2,
        _ => 1,
    }
}

fn may_use(name: &str, layer: Layer, uses: &str, uses_layer: Layer) -> bool {
    layer == Layer::T || (uses_layer, rank(uses)) < (layer, rank(name)) && uses_layer != Layer::T
}

/// Checks every crate of `graph`, in the order given.
pub fn check(graph: &[Crate]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for krate in graph {
        let name = krate.name.clone();
        let Some(text) = &krate.layer else {
            violations.push(Violation::NoLayer { name });
            continue;
        };
        let Some(layer) = Layer::parse(text) else {
            violations.push(Violation::UnknownLayer { name, layer: text.clone() });
            continue;
        };
        for dependency in &krate.dependencies {
            violations.extend(check_one(graph, &name, layer, dependency));
        }
    }
    violations
}

fn check_one(graph: &[Crate], name: &str, layer: Layer, dependency: &Dependency) -> Option<Violation> {
    let (name, uses) = (name.to_owned(), dependency.name.clone());
    if !dependency.workspace {
        let refused = layer.sans_io() && !dependency.dev && IO_PACKAGES.contains(&uses.as_str());
        return refused.then_some(Violation::Io { name, layer, uses });
    }
    let uses_layer = graph.iter().find(|k| k.name == uses)?.layer.as_deref().and_then(Layer::parse)?;
    (!may_use(&name, layer, &uses, uses_layer)).then_some(Violation::Upward { name, layer, uses, uses_layer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn krate(name: &str, layer: &str, uses: &[(&str, bool)]) -> Crate {
        Crate {
            name: name.to_owned(),
            layer: (!layer.is_empty()).then(|| layer.to_owned()),
            dependencies: uses
                .iter()
                .map(|&(name, workspace)| Dependency { name: name.to_owned(), workspace, dev: false })
                .collect(),
        }
    }

    #[test]
    fn a_good_graph_passes() {
        let graph = [
            krate("plinth-base", "L1", &[("thiserror", false)]),
            krate("plinth-block", "L1", &[("plinth-base", true)]),
            krate("plinth-reactor", "L4", &[("plinth-block", true), ("io-uring", false)]),
            krate("plinth-target-daemon", "L4", &[("plinth-reactor", true), ("tokio", false)]),
            krate("plinth-target-ctl", "L5", &[("plinth-target-daemon", true)]),
            krate("plinth", "L5", &[("plinth-target-ctl", true)]),
            krate("plinth-interop", "T", &[("plinth-target-daemon", true)]),
            krate("plinth-e2e", "T", &[("plinth-interop", true)]),
        ];
        assert_eq!(check(&graph), []);
    }

    #[test]
    fn a_bad_graph_is_refused() {
        let graph = [
            krate("plinth-base", "L1", &[("plinth-block", true)]),
            krate("plinth-block", "L1", &[("plinth-target-scsi", true)]),
            krate("plinth-target-scsi", "L2", &[("tokio", false), ("plinth-target-iscsi", true)]),
            krate("plinth-target-iscsi", "L2", &[("plinth-sim", true)]),
            krate("plinth-sim", "T", &[]),
            krate("plinth-lost", "", &[]),
            krate("plinth-odd", "L9", &[]),
        ];
        let found: Vec<String> = check(&graph).iter().map(ToString::to_string).collect();
        let begins = [
            "plinth-base (L1) uses plinth-block (L1)",
            "plinth-block (L1) uses plinth-target-scsi (L2)",
            "plinth-target-scsi (L2) depends on tokio",
            "plinth-target-scsi (L2) uses plinth-target-iscsi (L2)",
            "plinth-target-iscsi (L2) uses plinth-sim (T)",
            "plinth-lost: no layer",
            "plinth-odd: layer \"L9\"",
        ];
        assert_eq!(found.len(), begins.len(), "{found:#?}");
        for (text, begin) in found.iter().zip(begins) {
            assert!(text.starts_with(begin), "{text:?} does not begin with {begin:?}");
        }
    }

    #[test]
    fn an_engine_does_not_use_a_command_and_engines_stand_beside_each_other() {
        let graph = [
            krate(
                "plinth-target-daemon",
                "L4",
                &[("plinth-target-ctl", true), ("plinth-initiator-engine", true)],
            ),
            krate("plinth-initiator-engine", "L4", &[]),
            krate("plinth-target-ctl", "L5", &[("plinth", true)]),
            krate("plinth", "L5", &[]),
        ];
        assert_eq!(check(&graph).len(), 3);
    }
}
