//! One scrape: samples are put in one after the other, and come out as Prometheus text or as JSON. Built anew for each
//! scrape from what the counters say at that moment; nothing is kept between scrapes.
//!
//! Text is the format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use prometheus::proto::{self, MetricFamily, MetricType};
use serde_json::{Map, Value, json};

use super::Durations;
use super::names::{Histogram, Kind, Number};

/// The media type of [`Exposition::text`].
pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Label names and values.
pub type Labels<'a> = [(&'a str, &'a str)];

#[derive(Debug, Default)]
pub struct Exposition {
    /// In the order of their first sample.
    families: Vec<MetricFamily>,
}

impl Exposition {
    pub fn add(&mut self, metric: &Number, labels: &Labels<'_>, value: f64) {
        let mut sample = sample(labels);
        let kind = match metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
                MetricType::COUNTER
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
                MetricType::GAUGE
            }
        };
        self.family(metric.name, metric.help, kind).mut_metric().push(sample);
    }

    /// The durations of all workers together, in seconds. Bucket `i` of [`Durations`] holds what took less than `2^i` µs.
    pub fn add_durations<'a>(
        &mut self,
        metric: &Histogram,
        labels: &Labels<'_>,
        durations: impl IntoIterator<Item = &'a Durations>,
    ) {
        let (mut counts, mut sum_us) = ([0u64; Durations::BUCKETS], 0u64);
        for (buckets, worker_sum_us) in durations.into_iter().map(Durations::values) {
            counts
                .iter_mut()
                .zip(buckets)
                .for_each(|(count, more)| *count = count.saturating_add(more));
            sum_us = sum_us.saturating_add(worker_sum_us);
        }
        let mut so_far = 0;
        let mut buckets = Vec::with_capacity(Durations::BUCKETS);
        for (i, count) in counts.into_iter().enumerate() {
            so_far += count;
            // The last one is open: what it holds is in the count of all, which the encoder adds as `+Inf`.
            if i + 1 < Durations::BUCKETS {
                let mut bucket = proto::Bucket::default();
                bucket.set_cumulative_count(so_far);
                bucket.set_upper_bound((1u64 << i) as f64 / 1e6);
                buckets.push(bucket);
            }
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(so_far);
        histogram.set_sample_sum(sum_us as f64 / 1e6);
        histogram.set_bucket(buckets);
        let mut sample = sample(labels);
        sample.set_histogram(histogram);
        self.family(metric.name, metric.help, MetricType::HISTOGRAM)
            .mut_metric()
            .push(sample);
    }

    /// # Errors
    /// None that a caller could cause: the encoder refuses a family without samples, which `add` never makes.
    pub fn text(&self) -> prometheus::Result<String> {
        prometheus::TextEncoder::new().encode_to_string(&self.families)
    }

    /// `{name: {type, help, samples: [{labels, value}]}}`; a histogram's sample has `count`, `sum` and `buckets`
    /// (cumulative, `le` in seconds; what took longer than the last one is in `count` alone) instead of a value.
    pub fn json(&self) -> Value {
        let families = self.families.iter().map(|family| {
            let kind = family.get_field_type();
            let samples: Vec<Value> = family
                .get_metric()
                .iter()
                .map(|sample| sample_json(kind, sample))
                .collect();
            let kind = format!("{kind:?}").to_lowercase();
            (
                family.name().to_owned(),
                json!({"type": kind, "help": family.help(), "samples": samples}),
            )
        });
        Value::Object(families.collect())
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> &mut MetricFamily {
        let at = self
            .families
            .iter()
            .position(|family| family.name() == name)
            .unwrap_or_else(|| {
                let mut family = MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_help(help.to_owned());
                family.set_field_type(kind);
                self.families.push(family);
                self.families.len() - 1
            });
        &mut self.families[at]
    }
}

fn sample(labels: &Labels<'_>) -> proto::Metric {
    let pairs = labels.iter().map(|&(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}

fn sample_json(kind: MetricType, sample: &proto::Metric) -> Value {
    let labels: Map<String, Value> = sample
        .get_label()
        .iter()
        .map(|pair| (pair.name().to_owned(), pair.value().into()))
        .collect();
    match kind {
        MetricType::HISTOGRAM => {
            let histogram = sample.get_histogram();
            let buckets: Vec<Value> = histogram
                .get_bucket()
                .iter()
                .map(|bucket| json!({"le": bucket.upper_bound(), "count": bucket.cumulative_count()}))
                .collect();
            let sum = histogram.get_sample_sum();
            json!({"labels": labels, "count": histogram.get_sample_count(), "sum": sum, "buckets": buckets})
        }
        MetricType::COUNTER => json!({"labels": labels, "value": number(sample.get_counter().get_value())}),
        _ => json!({"labels": labels, "value": number(sample.get_gauge().get_value())}),
    }
}

/// Counts without a fraction, as readers of JSON expect them.
fn number(value: f64) -> Value {
    const EXACT: f64 = (1u64 << 53) as f64;
    if value.fract() == 0.0 && (0.0..=EXACT).contains(&value) {
        json!(value as u64)
    } else {
        json!(value)
    }
}

#[cfg(test)]
mod tests;
