//! docs/configuration.md, made from the flags.

use std::fmt::Write;

use clap::{Arg, ArgAction};

use super::flags;

const HEAD: &str = "# Configuration

This page is made by `ingress-agent docs config` from the flags themselves.

Every setting can be given as a flag, as an environment variable or in one YAML file (`--config FILE`), under the same name.
A flag wins over the environment, the environment over the file, the file over the default. A setting that takes a list is
repeated as a flag, separated by commas in the environment, and a YAML list in the file. A higher place replaces the whole list.

```yaml
manifests: /etc/ingress-agent/manifests
http: [\"0.0.0.0:80\", \"[::]:80\"]
trusted-proxies: [10.0.0.0/8]
access-log: errors
drain-timeout: 1m
```

Durations have a unit: `500ms`, `30s`, `5m`, `1h`. Sizes are bytes, with `k` and `m` for 1024 and 1048576. An unknown key or a
value of the wrong form stops the start with the file, the line, the key and what was expected.
";

/// The whole page.
pub fn page() -> String {
    let command = flags::command();
    let mut page = HEAD.to_owned();
    let mut heading = None;
    for arg in command.get_arguments().filter(|arg| arg.get_id() != "help") {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            let _ = write!(
                page,
                "\n## {}\n\n| Setting | Environment | Default | Meaning |\n|---|---|---|---|\n",
                heading.unwrap_or("Other")
            );
        }
        row(&mut page, arg);
    }
    page
}

fn row(page: &mut String, arg: &Arg) {
    let name = arg.get_long().unwrap_or_default();
    let value = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map_or("", |name| name.as_str());
    let env = arg.get_env().map(|env| env.to_string_lossy()).unwrap_or_default();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, default) = meaning_and_default(arg, &help);
    let list = if matches!(arg.get_action(), ArgAction::Append) {
        " …"
    } else {
        ""
    };
    let _ = writeln!(page, "| `{name}` {value}{list} | `{env}` | {default} | {help} |");
}

/// The default is the table's own, or, where it depends on the machine, what the help's closing bracket says.
fn meaning_and_default(arg: &Arg, help: &str) -> (String, String) {
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    match help.split_once(" [default: ") {
        Some((help, default)) => (help.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help.to_owned(), defaults.join(", ")),
    }
}
