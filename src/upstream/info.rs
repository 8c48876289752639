//! What is read out of the text that a server answers to `INFO`.

/// The value of a field.
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// How often a command was executed, of the section `commandstats`: 0 if it is not there.
pub fn calls(info: &str, command: &str) -> u64 {
    let calls = info.lines().find_map(|line| {
        let rest = line.strip_prefix("cmdstat_")?.strip_prefix(command)?;
        rest.strip_prefix(":calls=")?.split(',').next()
    });
    calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
