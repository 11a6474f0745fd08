"""The type checker that jaxtyping's import hook uses: beartype, an int being welcome where a float is expected."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
