# Sourced: .venv-check has the checkers and the built project, whose modules stubtest compares with their stubs.
digest=$(sources_digest check)
if ! up_to_date .venv-check/.stamp "$digest"; then
    new_environment .venv-check
    .venv-check/bin/python tools/requirements.py check | .venv-check/bin/pip install --quiet -r /dev/stdin
    .venv-check/bin/pip install --quiet --force-reinstall --no-deps "$(tools/build-wheel)"
    echo "$digest" >.venv-check/.stamp
fi
