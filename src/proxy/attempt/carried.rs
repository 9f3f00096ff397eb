//! What the head of a request has of the fields about time and attempts. Hardly any has one, so all are looked for in one
//! pass over its names, and whoever reads or writes one of them later need not look again.

use http::header::HeaderName;

use super::TimeField;

/// A field about time or attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum CarriedField {
    Time(TimeField),
    Attempt,
    PreviousAttempts,
}

impl CarriedField {
    pub(in crate::proxy) fn of(name: &HeaderName) -> Option<Self> {
        let name = name.as_str();
        // By its length first: that is one look for nearly all names.
        let (field, text) = match name.len() {
            12 => (Self::Time(TimeField::GrpcTimeout), "grpc-timeout"),
            19 => (Self::Attempt, "x-outrigger-attempt"),
            20 => (Self::Time(TimeField::Deadline), "x-outrigger-deadline"),
            26 => (Self::PreviousAttempts, "grpc-previous-rpc-attempts"),
            30 => (Self::Time(TimeField::Expected), "x-envoy-expected-rq-timeout-ms"),
            _ => return None,
        };
        (name == text).then_some(field)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Time(field) => 1 << field as u8,
            Self::Attempt => 1 << 3,
            Self::PreviousAttempts => 1 << 4,
        }
    }
}

/// Which of them a head has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Carried(u8);

impl Carried {
    /// None of them.
    pub(in crate::proxy) const NONE: Self = Self(0);

    /// One was found.
    pub(in crate::proxy) fn add(&mut self, field: CarriedField) {
        self.0 |= field.bit();
    }

    /// Whether it has this one.
    pub(super) fn has(self, field: TimeField) -> bool {
        self.0 & CarriedField::Time(field).bit() != 0
    }

    /// Whether it says which attempt it is.
    pub(super) fn counts_attempts(self) -> bool {
        self.0 & (CarriedField::Attempt.bit() | CarriedField::PreviousAttempts.bit()) != 0
    }
}

impl FromIterator<CarriedField> for Carried {
    fn from_iter<T: IntoIterator<Item = CarriedField>>(fields: T) -> Self {
        fields.into_iter().fold(Self::NONE, |mut carried, field| {
            carried.add(field);
            carried
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::marks::{ATTEMPT, PREVIOUS_ATTEMPTS};
    use super::*;

    #[test]
    fn the_fields_are_known_by_their_names_and_no_others() {
        for field in TimeField::ALL {
            assert_eq!(CarriedField::of(&field.name()), Some(CarriedField::Time(field)));
        }
        assert_eq!(CarriedField::of(&ATTEMPT), Some(CarriedField::Attempt));
        assert_eq!(CarriedField::of(&PREVIOUS_ATTEMPTS), Some(CarriedField::PreviousAttempts));
        for other in ["accept", "content-type", "x-outrigger-retries", "x-outrigger-deadlyne"] {
            assert_eq!(CarriedField::of(&HeaderName::from_static(other)), None, "{other}");
        }
    }

    #[test]
    fn each_field_is_told_apart() {
        let carried: Carried =
            [CarriedField::Time(TimeField::Deadline), CarriedField::PreviousAttempts].into_iter().collect();
        assert_eq!(TimeField::ALL.map(|field| carried.has(field)), [false, true, false]);
        assert!(carried.counts_attempts());
        let timed: Carried = TimeField::ALL.map(CarriedField::Time).into_iter().collect();
        assert_eq!(TimeField::ALL.map(|field| timed.has(field)), [true; 3]);
        assert!(!timed.counts_attempts());
    }
}
