//! `plinth-layers`: reads `cargo metadata` of the workspace and says whether every crate uses only what stands below it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::process::ExitCode;

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use plinth_layers::{Crate, Dependency, check};

fn graph(metadata: &Metadata) -> Vec<Crate> {
    let packages = metadata.workspace_packages();
    let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut crates: Vec<Crate> = packages
        .iter()
        .map(|package| Crate {
            name: package.name.to_string(),
            layer: package.metadata["plinth"]["layer"].as_str().map(str::to_owned),
            dependencies: package
                .dependencies
                .iter()
                .map(|d| Dependency {
                    name: d.name.clone(),
                    workspace: names.contains(&d.name.as_str()),
                    dev: d.kind == DependencyKind::Development,
                })
                .collect(),
        })
        .collect();
    crates.sort_by(|a, b| (&a.layer, &a.name).cmp(&(&b.layer, &b.name)));
    crates
}

fn main() -> anyhow::Result<ExitCode> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("cargo metadata failed; run this inside the repository")?;
    let crates = graph(&metadata);
    for krate in &crates {
        let uses: Vec<&str> =
            krate.dependencies.iter().filter(|d| d.workspace).map(|d| d.name.as_str()).collect();
        println!("{:2}  {:24} uses {}", krate.layer.as_deref().unwrap_or("?"), krate.name, uses.join(" "));
    }
    let violations = check(&crates);
    for violation in &violations {
        eprintln!("layers: {violation}");
    }
    println!("{} crates checked, {} violations", crates.len(), violations.len());
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
