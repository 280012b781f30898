def render(runs, folder): raise NotImplementedError
