//! Figures in columns, for a terminal or for a Markdown page, and where they come from.

use std::process::Command;

pub struct Table {
    is_markdown: bool,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(is_markdown: bool, columns: &[&str]) -> Table {
        let mut table = Table {
            is_markdown,
            rows: vec![Vec::new()],
        };
        table.columns(columns);
        table
    }

    pub fn columns(&mut self, names: &[&str]) {
        self.rows[0].extend(names.iter().map(|name| (*name).to_owned()));
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn print(&self) {
        if self.is_markdown {
            for (i, row) in self.rows.iter().enumerate() {
                println!("| {} |", row.join(" | "));
                if i == 0 {
                    println!("|---|{}", "---:|".repeat(row.len() - 1));
                }
            }
            return;
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                // The first column is text, the others are numbers.
                match column {
                    0 => line.push_str(&format!("{cell:width$}")),
                    _ => line.push_str(&format!("  {cell:>width$}")),
                }
            }
            println!("{line}");
        }
    }
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => figures[len / 2],
        len => (figures[len / 2 - 1] + figures[len / 2]) / 2.0,
    }
}

/// The date and the machine, which figures mean nothing without.
pub fn when_and_where() -> String {
    let date = Command::new("date").arg("+%F").output();
    let date = date.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{date}, {model}, {cores} cores")
}
