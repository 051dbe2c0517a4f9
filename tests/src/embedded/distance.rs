//! Exact scoring: the four distances and the order they sort in.

use serde::{Deserialize, Serialize};

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Distance {
    Cosine,
    Euclid,
    Dot,
    Manhattan,
}

impl Distance {
    /// The form in which a vector is kept: Qdrant normalises once on insert, so cosine is a dot product afterwards.
    pub(crate) fn prepare(self, mut vector: Vec<f32>) -> Vec<f32> {
        if self == Self::Cosine {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > f32::EPSILON && (length - 1.0).abs() > 1e-6 {
                for x in &mut vector {
                    *x /= length;
                }
            }
        }
        vector
    }

    /// Scores two prepared vectors of equal length.
    pub(crate) fn score(self, a: &[f32], b: &[f32]) -> f32 {
        let pairs = a.iter().zip(b);
        match self {
            Self::Cosine | Self::Dot => pairs.map(|(x, y)| x * y).sum(),
            Self::Euclid => pairs.map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt(),
            Self::Manhattan => pairs.map(|(x, y)| (x - y).abs()).sum(),
        }
    }

    /// Whether a larger score is the better one.
    pub(crate) fn larger_is_better(self) -> bool {
        matches!(self, Self::Cosine | Self::Dot)
    }

    /// Whether `score` passes `threshold`.
    pub(crate) fn passes(self, score: f32, threshold: f32) -> bool {
        if self.larger_is_better() { score >= threshold } else { score <= threshold }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cosine => "Cosine",
            Self::Euclid => "Euclid",
            Self::Dot => "Dot",
            Self::Manhattan => "Manhattan",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_ignores_length() {
        let a = Distance::Cosine.prepare(vec![3.0, 4.0]);
        let b = Distance::Cosine.prepare(vec![30.0, 40.0]);
        assert_eq!(a, vec![0.6, 0.8]);
        assert!((Distance::Cosine.score(&a, &b) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn distances_and_their_direction() {
        assert_eq!(Distance::Dot.score(&[1.0, 2.0], &[3.0, 4.0]), 11.0);
        assert_eq!(Distance::Euclid.score(&[0.0, 0.0], &[3.0, 4.0]), 5.0);
        assert_eq!(Distance::Manhattan.score(&[0.0, 0.0], &[3.0, -4.0]), 7.0);
        assert!(Distance::Dot.passes(0.9, 0.5));
        assert!(Distance::Euclid.passes(0.4, 0.5));
        assert!(!Distance::Manhattan.passes(0.9, 0.5));
    }

    #[test]
    fn a_zero_vector_stays_zero() {
        assert_eq!(Distance::Cosine.prepare(vec![0.0, 0.0]), vec![0.0, 0.0]);
    }
}
