//! Latency by percentile as a picture: the further right, the rarer.

use std::fmt::Write as _;

use super::report::Report;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 60.0;

/// Told apart by people who see few colours (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// What is marked below: how many of 10, 100, 1000 requests are slower.
const MARKS: [(&str, f64); 6] =
    [("0 %", 0.0), ("90 %", 1.0), ("99 %", 2.0), ("99.9 %", 3.0), ("99.99 %", 4.0), ("99.999 %", 5.0)];

/// The picture.
pub(super) fn svg(report: &Report) -> String {
    let ways = report.latencies();
    let most = ways.iter().map(|(_, latencies)| latencies.len()).max().unwrap_or(1).max(10);
    // As many nines as there are requests for.
    let nines = (most as f64).log10().clamp(1.0, 5.0);
    let fastest = ways.iter().map(|(_, latencies)| latencies.min()).min().unwrap_or(1).max(1) as f64;
    let slowest = ways.iter().map(|(_, latencies)| latencies.max()).max().unwrap_or(10) as f64;
    let (floor, ceiling) =
        (fastest.log10().floor(), slowest.log10().ceil().max(fastest.log10().floor() + 1.0));
    let x = |nine: f64| LEFT + nine / nines * (WIDTH - LEFT - RIGHT);
    let y = |microseconds: f64| {
        HEIGHT
            - BOTTOM
            - (microseconds.max(1.0).log10() - floor) / (ceiling - floor) * (HEIGHT - TOP - BOTTOM)
    };

    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="20" font-size="10">{}</text>
"##,
        escape(report.conditions())
    );
    let mut power = floor;
    while power <= ceiling {
        let (at, right) = (y(10_f64.powf(power)), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            r##"<path d="M{LEFT} {at:.1}H{right}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
            LEFT - 8.0,
            at + 4.0,
            duration(10_f64.powf(power))
        );
        power += 1.0;
    }
    for (name, nine) in MARKS.into_iter().filter(|(_, nine)| *nine <= nines) {
        let (at, bottom) = (x(nine), HEIGHT - BOTTOM);
        let _ = writeln!(
            out,
            r##"<path d="M{at:.1} {TOP}V{bottom}" stroke="#ddd"/><text x="{at:.1}" y="{}" text-anchor="middle">{name}</text>"##,
            bottom + 20.0
        );
    }
    let _ = writeln!(
        out,
        r#"<text x="{}" y="{}" text-anchor="middle">of requests are as fast or faster</text>"#,
        WIDTH / 2.0,
        HEIGHT - 15.0
    );
    for ((at, (name, latencies)), colour) in ways.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let mut points = String::new();
        let steps = 200;
        for step in 0..=steps {
            let nine = f64::from(step) / f64::from(steps) * nines;
            let quantile = 1.0 - 10_f64.powf(-nine);
            let latency = latencies.value_at_quantile(quantile) as f64;
            let _ = write!(points, "{:.1},{:.1} ", x(nine), y(latency));
        }
        let legend = LEFT + 150.0 * at as f64;
        let _ = writeln!(
            out,
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/><text x="{legend}" y="44" fill="{colour}">{}</text>"#,
            escape(name)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn duration(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.0} s", us / 1e6),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
