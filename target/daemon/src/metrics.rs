//! The Prometheus endpoint: counters of every unit and initiator, as OpenMetrics text at `/metrics`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::control::backend::{Backend as _, IoStats, NexusStats};
use crate::tgtd::{SharedPlane, lock};

/// Serves metrics at `address` on a thread of its own.
pub(crate) fn serve(address: SocketAddr, plane: SharedPlane) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).context("cannot listen")?;
    let mut registry = Registry::with_prefix("plinth_target");
    registry.register_collector(Box::new(Units(plane)));
    let registry = Arc::new(registry);
    let app = Router::new().route("/metrics", get(move || scrape(Arc::clone(&registry))));
    let body = move || {
        if let Err(e) = runtime.block_on(async move { axum::serve(listener, app).await }) {
            tracing::error!("metrics: {e}");
        }
    };
    std::thread::Builder::new().name("metrics".into()).spawn(body)?;
    Ok(())
}

async fn scrape(registry: Arc<Registry>) -> Response {
    // Counters are gathered from the reactors, which takes a moment: not on the server's own thread.
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &registry).map(|()| text)
    });
    match text.await {
        Ok(Ok(text)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the counters could not be gathered\n").into_response(),
    }
}

struct Units(SharedPlane);

impl fmt::Debug for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Units")
    }
}

type Labels = Vec<(&'static str, String)>;

/// One initiator's counters on one unit, with what names them.
struct Row {
    target: String,
    lun: u64,
    stats: NexusStats,
}

impl Row {
    fn labels(&self, way: &str) -> Labels {
        let mut labels = vec![
            ("target", self.target.clone()),
            ("lun", self.lun.to_string()),
            ("initiator", self.stats.initiator.clone()),
            ("session", self.stats.sid.to_string()),
        ];
        if !way.is_empty() {
            labels.push(("direction", way.to_owned()));
        }
        labels
    }

    fn ways(&self) -> [(&'static str, &IoStats); 2] {
        [("read", &self.stats.read), ("write", &self.stats.write)]
    }
}

impl Units {
    fn rows(&self) -> Vec<Row> {
        let plane = lock(&self.0);
        let mut rows = Vec::new();
        for target in &plane.backend.snapshot().targets {
            for &(lun, handle) in &target.luns {
                let stats = plane.backend.lun_stats(handle).into_iter();
                rows.extend(stats.map(|stats| Row { target: target.name.clone(), lun, stats }));
            }
        }
        rows
    }
}

impl Collector for Units {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let rows = self.rows();
        counter(&mut encoder, "commands", "Commands that ended", &rows, |s| s.done)?;
        counter(&mut encoder, "bytes", "Bytes moved", &rows, |s| s.done_bytes)?;
        let mut metric = encoder.encode_descriptor(
            "errors",
            "Commands that failed at the medium",
            None,
            MetricType::Counter,
        )?;
        for row in &rows {
            metric
                .encode_family(&row.labels(""))?
                .encode_counter::<NoLabelSet, u64, f64>(&row.stats.errors, None)?;
        }
        let help = "Time from command to status";
        let mut metric = encoder.encode_descriptor("latency_seconds", help, None, MetricType::Histogram)?;
        for row in &rows {
            for (way, stats) in row.ways() {
                let buckets: Vec<(f64, u64)> = stats
                    .latency
                    .buckets()
                    .map(|(us, n)| (if us == u64::MAX { f64::MAX } else { us as f64 / 1e6 }, n))
                    .collect();
                let sum = stats.latency.sum_ns() as f64 / 1e9;
                metric.encode_family(&row.labels(way))?.encode_histogram::<NoLabelSet>(
                    sum,
                    stats.latency.count(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: &[Row],
    value: impl Fn(&IoStats) -> u64,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for row in rows {
        for (way, stats) in row.ways() {
            metric
                .encode_family(&row.labels(way))?
                .encode_counter::<NoLabelSet, u64, f64>(&value(stats), None)?;
        }
    }
    Ok(())
}
