//! When does the parser learn the flags of a command? When that command was called.

use clap::builder::Resettable;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Id};

/// The arguments of a command, described to the parser once the command is called: to describe those of all commands takes
/// longer than all else that the start of the program does.
#[derive(Debug)]
pub struct Deferred<T>(pub T);

impl<T: Args> Args for Deferred<T> {
    fn augment_args(command: Command) -> Command {
        command.defer(|command| described(command, T::augment_args))
    }

    fn augment_args_for_update(command: Command) -> Command {
        command.defer(|command| described(command, T::augment_args_for_update))
    }
}

/// Adds the arguments; what the list of commands says of this one stays, whatever the type of its arguments says of itself.
fn described(command: Command, augment: fn(Command) -> Command) -> Command {
    let (about, long) = (command.get_about().cloned(), command.get_long_about().cloned());
    // The flags of all commands are there already, and belong behind these.
    let global: Vec<Id> = command.get_arguments().map(|arg| arg.get_id().clone()).collect();
    let command = global
        .into_iter()
        .fold(augment(command), |command, id| command.mut_arg(id, |arg| arg));
    let command = match about {
        Some(about) => command.about(about),
        None => command,
    };
    // Also where there is none: the type's own would be shown instead of what stands in the list.
    command.long_about(long.map_or(Resettable::Reset, Resettable::Value))
}

impl<T: FromArgMatches> FromArgMatches for Deferred<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}
